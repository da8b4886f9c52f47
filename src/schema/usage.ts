import type { RateLimitName } from '../adapters/rate-limit.ts';
import type { quotaNames } from '../services/quota.ts';
import type { Builder } from './builder.ts';

const whole = (what: string) => `${what}, a whole number.`;

/** What the caller has used, and how much is left. */
export function addUsage(builder: Builder) {
  const quotaName = builder.enumType('QuotaName', {
    description: 'What is limited for each user.',
    values: {
      AGENTS: { description: 'Agents of the team.' },
      SESSIONS: { description: 'Sessions, expired ones included until they are removed.' },
      STORED_BYTES: { description: 'Bytes of text in the memories of all agents.' },
      CONCURRENT_TASKS: { description: 'Tasks that wait for their turn, wait for a retry, or run.' },
      TOKENS_PER_DAY: { description: 'Tokens of prompts and answers on one day of UTC.' },
    } satisfies Record<(typeof quotaNames)[number], object>,
  });
  const rateName = builder.enumType('RateLimitName', {
    description: 'What is limited by the minute.',
    values: {
      REQUESTS: { description: 'Requests of any kind but event streams.' },
      STREAMS: { description: 'Event streams opened.' },
      SEND: { description: 'Messages sent, and what is tried or asked again.' },
      INGEST: { description: 'Calls that give documents to memory, compare a source, or take documents out.' },
      SEARCH: { description: 'Searches of memory.' },
      COSTLY: { description: 'Memories made anew and MCP servers asked for their tools.' },
    } satisfies Record<RateLimitName, object>,
  });
  const usageKind = builder.enumType('ModelUsageKind', {
    description: 'What a model was asked for.',
    values: {
      CHAT: { description: 'An answer of an agent, a plan, or a composed answer.' },
      EMBEDDING: { description: 'Vectors of documents and of what is searched for.' },
    },
  });
  const quota = builder.objectRef<import('../services/quota.ts').QuotaState>('Quota').implement({
    description: 'A quota and how much of it is used.',
    fields: (t) => ({
      name: t.expose('name', { type: quotaName, description: 'Which quota.' }),
      limit: t.exposeFloat('limit', { description: whole('The most that you may have') }),
      used: t.exposeFloat('used', { description: whole('What you have') }),
      resetsAt: t.expose('resetsAt', {
        type: 'DateTime',
        nullable: true,
        description: 'When what is used starts anew; null when it goes down only as things end or are removed.',
      }),
    }),
  });
  const rate = builder.objectRef<import('../services/usage.ts').RateLimitStatus>('RateLimit').implement({
    description: 'A limit by the minute, as it stands now.',
    fields: (t) => ({
      name: t.expose('name', { type: rateName, description: 'Which limit.' }),
      limit: t.exposeInt('limit', { description: 'How many in a minute.' }),
      remaining: t.exposeInt('remaining', { description: 'How many are left.' }),
      resetsAt: t.expose('resetsAt', { type: 'DateTime', description: 'When the whole limit is there again.' }),
    }),
  });
  const day = builder.objectRef<import('../services/usage.ts').UsageDay>('UsageDay').implement({
    description: 'What one model did for you on one day of UTC.',
    fields: (t) => ({
      day: t.exposeString('day', { description: 'The day, such as `2026-11-21`.' }),
      kind: t.expose('kind', { type: usageKind, description: 'What it was asked for.' }),
      model: t.exposeString('model', { description: 'The model, as it names itself.' }),
      calls: t.exposeFloat('calls', { description: whole('How often it was asked') }),
      promptTokens: t.exposeFloat('promptTokens', { description: whole('Tokens that it was told') }),
      completionTokens: t.exposeFloat('completionTokens', { description: whole('Tokens that it answered') }),
      costUsd: t.exposeFloat('costUsd', {
        description: "US dollars by the service's price table; 0 for models not in it.",
      }),
    }),
  });
  return { quota, rate, day };
}
