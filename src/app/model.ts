import { randomUUID } from 'node:crypto';
import { createBudgetStore } from '../adapters/budget-store.ts';
import { createLanguageModel } from '../adapters/llm.ts';
import type { Log } from '../adapters/log.ts';
import { observeModel } from '../adapters/observed-model.ts';
import type { Config } from '../config.ts';
import type { ModelFor } from '../governor/caller.ts';
import { createBudgetEngine, shareConstants } from '../governor/engine.ts';
import { createGovernor, type Provider } from '../governor/governor.ts';
import type { Limits } from '../governor/share.ts';
import type { ProcessParts } from '../process.ts';

/** Every provider known counts by the minute, in milliseconds. */
const window = 60_000;

type Parts = Pick<ProcessParts, 'store' | 'metrics' | 'tracing'>;

/** The models of the configuration behind one governor: a process has one, so that all its calls take their turns. */
export function createModels(config: Config, log: Log, parts: Parts): ModelFor {
  const { store, metrics } = parts;
  const process = randomUUID();
  return createGovernor({
    provider: createProvider(config, parts, {
      baseUrl: config.MODEL_BASE_URL,
      apiKey: config.MODEL_API_KEY,
      defaultModel: config.MODEL_NAME,
    }),
    fallback:
      config.MODEL_FALLBACK_NAME === undefined
        ? null
        : createProvider(config, parts, {
            baseUrl: config.MODEL_FALLBACK_BASE_URL ?? config.MODEL_BASE_URL,
            apiKey: config.MODEL_FALLBACK_API_KEY ?? config.MODEL_API_KEY,
            defaultModel: config.MODEL_FALLBACK_NAME,
          }),
    limitsOf: (model) => limitsOf(config, model),
    engineFor: (budget, limits) =>
      createBudgetEngine({
        limits,
        process,
        now: Date.now,
        store: store === null ? null : createBudgetStore(store, budget, { ...limits, constants: shareConstants }),
        newEpoch: randomUUID,
        onStoreLost: (error) =>
          log.warn(
            { reason: error instanceof Error ? error.message : String(error) },
            'Redis is away: this process shares out its own part of the model budget',
          ),
      }),
    waitTimeout: config.MODEL_WAIT_TIMEOUT,
    maxWaiting: config.MODEL_MAX_WAITING,
    maxWaitingPerUser: config.MODEL_MAX_WAITING_PER_USER,
    metrics,
    log,
  });
}

function createProvider(
  config: Config,
  { metrics, tracing }: Parts,
  endpoint: { baseUrl: string; apiKey: string; defaultModel: string },
): Provider {
  const { host, pathname } = new URL(endpoint.baseUrl);
  return {
    name: `${host}${pathname}`,
    model: observeModel(
      createLanguageModel({
        ...endpoint,
        defaultEmbeddingModel: config.MODEL_EMBEDDING_NAME,
        connectTimeout: config.MODEL_CONNECT_TIMEOUT,
        idleTimeout: config.MODEL_IDLE_TIMEOUT,
      }),
      metrics,
      tracing,
    ),
    defaultModel: endpoint.defaultModel,
    defaultEmbeddingModel: config.MODEL_EMBEDDING_NAME,
  };
}

/** Users choose models by name: only names of the configuration have a budget of their own. */
function limitsOf(config: Config, model: string): { name: string; limits: Limits } {
  const own = Object.hasOwn(config.MODEL_LIMITS, model) ? config.MODEL_LIMITS[model] : undefined;
  return {
    name: own === undefined ? '*' : model,
    limits: {
      requests: own?.requestsPerMinute ?? config.MODEL_REQUESTS_PER_MINUTE,
      tokens: own?.tokensPerMinute ?? config.MODEL_TOKENS_PER_MINUTE,
      window,
    },
  };
}
