import { developmentAudience, developmentIssuer } from '../../dev/identity.ts';
import { type Config, readConfig } from '../../src/config.ts';

/** What the service's processes are given. */
export interface ServiceSettings {
  readonly appUrl: string;
  readonly workerUrl: string;
  readonly redisUrl: string | null;
  readonly modelUrl: string;
  /** The public key of the tokens, as JWK in JSON. */
  readonly publicKey: string;
}

/** What the floor's process is given. */
export interface FloorSettings {
  readonly databaseUrl: string;
  readonly modelUrl: string;
}

/** One request as it looked at the wire of the model, in milliseconds since the epoch. */
export interface ModelCall {
  /** Mark of the message that it was for. */
  readonly mark: string;
  readonly start: number;
  readonly end: number;
}

/** Most messages at once; none of them shall wait for a slot of the worker, which would be the model's time again. */
export const mostAtOnce = 50;

/** What an answer takes at least and at most until its first token, then between two of them, in milliseconds; how many there are. */
export const answer = { earliest: 300, latest: 700, between: 25, tokens: 20 } as const;

/** Longest time that a model takes, in milliseconds. */
export const longestAnswer = answer.latest + answer.between * answer.tokens;

/** The mark of the message that a model is asked about: the newest of all in what it is told, or '' for none. */
export function newestMark(text: string): string {
  const numbers = [...text.matchAll(/#m(\d+)#/g)].map(([, number]) => Number(number));
  return numbers.length === 0 ? '' : `#m${Math.max(...numbers)}#`;
}

/** Time that is the same in all processes of the machine, in milliseconds. */
export function machineTime(): number {
  return performance.timeOrigin + performance.now();
}

/** The service's own defaults, but for where things are and limits that would get in the way. */
export function serviceConfig(settings: ServiceSettings): Config {
  return readConfig({
    DATABASE_URL: settings.appUrl,
    WORKER_DATABASE_URL: settings.workerUrl,
    REDIS_URL: settings.redisUrl ?? undefined,
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: settings.publicKey,
    MODEL_BASE_URL: settings.modelUrl,
    MODEL_API_KEY: 'none',
    MODEL_NAME: 'timed',
    PORT: '0',
    LOG_LEVEL: 'warn',
    WORKER_SLOTS: String(mostAtOnce * 3),
    RATE_LIMIT_REQUESTS: '1000000',
    RATE_LIMIT_SEND: '1000000',
    SHUTDOWN_TIMEOUT: '5000',
  });
}
