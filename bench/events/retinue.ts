import { developmentAudience, developmentIssuer } from '../../dev/identity.ts';
import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { runChild } from '../child.ts';
import { measureMemory } from './memory.ts';
import type { ServerReady, ServerSettings } from './settings.ts';

// The service itself, as it is started in production.
runChild<ServerSettings, ServerReady>(async (settings) => {
  const config = readConfig({
    DATABASE_URL: settings.databaseUrl,
    WORKER_DATABASE_URL: settings.databaseUrl,
    REDIS_URL: settings.redisUrl,
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: settings.publicKey,
    // No model is called by what is measured here.
    MODEL_BASE_URL: 'http://127.0.0.1:9/v1',
    MODEL_API_KEY: 'none',
    MODEL_NAME: 'none',
    PORT: '0',
    RATE_LIMIT_STREAMS: '1000000',
    LOG_LEVEL: 'warn',
    SHUTDOWN_TIMEOUT: '5000',
  });
  const api = await startApi(config, createLog({ level: config.LOG_LEVEL }));
  return {
    ready: { url: api.url },
    commands: {
      memory: measureMemory,
      stats: () => api.streamStats(),
    },
    stop: () => api.stop(),
  };
});
