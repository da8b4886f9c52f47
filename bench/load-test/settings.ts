import { developmentAudience, developmentIssuer } from '../../dev/identity.ts';
import { type Config, readConfig } from '../../src/config.ts';

/** What the processes of the service are given. */
export interface ServiceSettings {
  readonly appUrl: string;
  readonly workerUrl: string;
  readonly redisUrl: string | null;
  readonly modelUrl: string;
  readonly modelKey: string;
  /** The public key of the tokens, as JWK in JSON. */
  readonly publicKey: string;
}

/** The service's own defaults, but for where things are, and limits of single users that a load of few users would meet. */
export function serviceConfig(settings: ServiceSettings): Config {
  return readConfig({
    DATABASE_URL: settings.appUrl,
    WORKER_DATABASE_URL: settings.workerUrl,
    REDIS_URL: settings.redisUrl ?? undefined,
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: settings.publicKey,
    MODEL_BASE_URL: settings.modelUrl,
    MODEL_API_KEY: settings.modelKey,
    MODEL_NAME: 'offline-1',
    // An answer takes the model some seconds: 25 messages a second need more places than one worker process has by default.
    WORKER_SLOTS: '200',
    PORT: '0',
    RATE_LIMIT_REQUESTS: '1000000',
    RATE_LIMIT_SEND: '1000000',
    MODEL_REQUESTS_PER_MINUTE: '10000000',
    MODEL_TOKENS_PER_MINUTE: '10000000000',
    QUOTA_TOKENS_PER_DAY: '1000000000',
    SLOW_AFTER_DENIALS: '1000000',
    LOG_LEVEL: 'warn',
    SHUTDOWN_TIMEOUT: '5000',
  });
}

/** What a process of the service holds in memory, in bytes. */
export interface Memory {
  /** Of the whole process, as the system sees it. */
  readonly resident: number;
  /** Of what is still in use, after a collection of garbage. */
  readonly live: number;
}
