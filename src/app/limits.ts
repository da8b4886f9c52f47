import { readFile } from 'node:fs/promises';
import { createRateLimits } from '../adapters/rate-limit.ts';
import type { SharedStore } from '../adapters/shared-store.ts';
import type { Config } from '../config.ts';
import { type RequestLimits, readManifest } from '../http-limits.ts';
import type { Terms } from '../terms.ts';

/** Quotas, prices and times from the configuration. */
export function createTerms(config: Config): Terms {
  return {
    quotas: {
      AGENTS: config.QUOTA_AGENTS,
      SESSIONS: config.QUOTA_SESSIONS,
      STORED_BYTES: config.QUOTA_STORED_BYTES,
      CONCURRENT_TASKS: config.QUOTA_CONCURRENT_TASKS,
      TOKENS_PER_DAY: config.QUOTA_TOKENS_PER_DAY,
    },
    prices: config.MODEL_PRICES,
    taskTimeout: config.TASK_TIMEOUT,
  };
}

/** The limits of requests from the configuration. @throws Error when the manifest of operations can't be read */
export async function createLimits(config: Config, store: SharedStore | null): Promise<RequestLimits> {
  const { PERSISTED_OPERATIONS: path } = config;
  return {
    rates: createRateLimits(
      {
        REQUESTS: config.RATE_LIMIT_REQUESTS,
        STREAMS: config.RATE_LIMIT_STREAMS,
        SEND: config.RATE_LIMIT_SEND,
        INGEST: config.RATE_LIMIT_INGEST,
        SEARCH: config.RATE_LIMIT_SEARCH,
        COSTLY: config.RATE_LIMIT_COSTLY,
      },
      store,
    ),
    documents: {
      tokens: config.DOCUMENT_MAX_TOKENS,
      depth: config.DOCUMENT_MAX_DEPTH,
      aliases: config.DOCUMENT_MAX_ALIASES,
      cost: config.DOCUMENT_MAX_COST,
    },
    introspection: config.INTROSPECTION,
    manifest:
      path === undefined
        ? null
        : { operations: readManifest(await readFile(path, 'utf8')), only: config.PERSISTED_OPERATIONS_ONLY },
    slowAfter: config.SLOW_AFTER_DENIALS,
  };
}
