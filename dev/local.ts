import { createHmac } from 'node:crypto';
import { allowLogin, migrate } from '../prisma/migrate.ts';
import { createLog } from '../src/adapters/log.ts';
import { type RunningApi, startAll } from '../src/app.ts';
import { readConfig } from '../src/config.ts';
import {
  type DevelopmentKey,
  developmentAudience,
  developmentIssuer,
  loadDevelopmentKey,
  loadDevelopmentSecretKey,
  signDevelopmentToken,
} from './identity.ts';
import { type OfflineModel, startOfflineModel } from './offline-model/server.ts';
import { type Stack, startStack } from './stack.ts';

export const defaultDataFolder = '.retinue';

export interface LocalOptions {
  dataFolder: string;
  /** Settings over those that are made up here; an environment with MODEL_BASE_URL uses that model instead of the offline one. */
  environment: Record<string, string | undefined>;
  log: (line: string) => void;
}

/** The whole service on this machine: embedded stack, offline model, API and worker in one process. */
export interface LocalService {
  api: RunningApi;
  stack: Stack;
  /** Null when the environment names another model. */
  model: OfflineModel | null;
  key: DevelopmentKey;
  token(user: string): Promise<string>;
  /** Stops everything that this call started, in reverse order. */
  stop(): Promise<void>;
}

/** URLs of the service's two roles, with passwords that follow from the owner's. */
export function roleUrls(ownerUrl: string, ownerPassword: string): { app: string; worker: string } {
  const urlOf = (role: string): string => {
    const url = new URL(ownerUrl);
    url.username = role;
    url.password = createHmac('sha256', ownerPassword).update(role).digest('hex');
    return url.href;
  };
  return { app: urlOf('app_user'), worker: urlOf('app_worker') };
}

/** Starts everything and waits until it answers. When a part fails, those before it are stopped again. */
export async function startLocal(options: LocalOptions): Promise<LocalService> {
  await using started = new AsyncDisposableStack();
  const stack = await startStack({
    dataFolder: options.dataFolder,
    redisUrl: options.environment['REDIS_URL'],
    log: options.log,
  });
  started.defer(() => stack.stop());
  for (const notice of stack.notices) {
    options.log(notice);
  }
  const urls = roleUrls(stack.postgres.ownerUrl, stack.postgres.ownerPassword);
  await migrate({ ownerUrl: stack.postgres.ownerUrl, direction: 'up' });
  await allowLogin(stack.postgres.ownerUrl, urls.app);
  await allowLogin(stack.postgres.ownerUrl, urls.worker);

  const model = options.environment['MODEL_BASE_URL'] === undefined ? await startOfflineModel() : null;
  if (model !== null) {
    started.defer(() => model.stop());
  }
  const key = await loadDevelopmentKey(options.dataFolder);
  const config = readConfig({
    DATABASE_URL: urls.app,
    WORKER_DATABASE_URL: urls.worker,
    REDIS_URL: stack.redisUrl ?? undefined,
    QDRANT_URL: stack.qdrantUrl ?? undefined,
    TOKEN_ISSUER: developmentIssuer,
    TOKEN_AUDIENCE: developmentAudience,
    TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
    SECRET_KEYS: await loadDevelopmentSecretKey(options.dataFolder),
    LOG_LEVEL: 'warn',
    INTROSPECTION: 'true',
    FIELD_SUGGESTIONS: 'true',
    ...(model === null
      ? {}
      : {
          MODEL_BASE_URL: model.url,
          MODEL_API_KEY: model.apiKey,
          MODEL_NAME: 'offline-1',
          MODEL_EMBEDDING_NAME: 'offline-embedding-1',
        }),
    ...options.environment,
  });
  const api = await startAll(config, createLog({ level: config.LOG_LEVEL }));
  started.defer(() => api.stop());
  const all = started.move();
  return {
    api,
    stack,
    model,
    key,
    token: (user) => signDevelopmentToken(key, user),
    stop: () => all.disposeAsync(),
  };
}
