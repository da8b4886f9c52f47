import { z } from 'zod';

const flag = z.enum(['true', 'false']).transform((value) => value === 'true');
const milliseconds = (fallback: number) => z.coerce.number().int().positive().max(86_400_000).default(fallback);
const count = (fallback: number, most: number) => z.coerce.number().int().positive().max(most).default(fallback);
/** A JSON object of settings by name. */
const table = <Row extends z.ZodType>(row: Row) =>
  z
    .string()
    .default('{}')
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        context.addIssue({ code: 'custom', message: 'must be a JSON object' });
        return z.NEVER;
      }
    })
    .pipe(z.record(z.string(), row));
const modelLimits = z.strictObject({
  requestsPerMinute: z.number().int().positive().optional(),
  tokensPerMinute: z.number().int().positive().optional(),
});
const modelPrice = z.strictObject({
  prompt: z.number().nonnegative(),
  completion: z.number().nonnegative().default(0),
});
const postgresUrl = z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' });

/** `id:key` pairs with keys of 32 bytes in Base64. The values themselves are not repeated: they are secrets. */
const secretKeys = z
  .string()
  .default('')
  .transform((text) => text.split(',').filter((part) => part.trim() !== ''))
  .pipe(
    z.array(
      z
        .string()
        .regex(/^\s*[\w.-]{1,40}:[A-Za-z0-9+/]{43}=\s*$/, 'must be `id:key`, with a key of 32 bytes in Base64')
        .transform((part) => {
          const [id = '', key = ''] = part.trim().split(':');
          return { id, key: Buffer.from(key, 'base64') };
        }),
    ),
  )
  .refine((keys) => new Set(keys.map(({ id }) => id)).size === keys.length, 'names a key twice');
const origins = z
  .string()
  .default('')
  .transform((text) => text.split(',').flatMap((part) => (part.trim() === '' ? [] : [part.trim()])))
  .pipe(
    z.array(
      z
        .url({ protocol: /^https?$/, error: 'must be origins such as http://127.0.0.1:8080' })
        .refine((url) => URL.parse(url)?.origin === url, 'must be origins such as http://127.0.0.1:8080'),
    ),
  );

/** Each setting with its rule, its default and what it is for. Durations are in milliseconds. */
const rules = z
  .object({
    DATABASE_URL: postgresUrl.describe('Postgres as the role app_user: what the API runs as.'),
    WORKER_DATABASE_URL: postgresUrl.describe('Postgres as the role app_worker: what workers run as.'),
    REDIS_URL: z
      .url({ protocol: /^rediss?$/, error: 'must be a redis:// URL' })
      .optional()
      .describe('Redis for live messages between processes. Without it one process serves alone.'),
    MODEL_BASE_URL: z.url().describe("Endpoint that speaks OpenAI's protocol, up to and with /v1."),
    MODEL_API_KEY: z.string().min(1).describe('Key for that endpoint.'),
    MODEL_NAME: z.string().min(1).describe('Model for agents that name none.'),
    MODEL_EMBEDDING_NAME: z
      .string()
      .min(1)
      .default('text-embedding-3-small')
      .describe('Model that turns texts into vectors, at the same endpoint.'),
    QDRANT_URL: z
      .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
      .optional()
      .describe('Qdrant, the index of memories. Without it memories are searched by words alone.'),
    QDRANT_API_KEY: z.string().min(1).optional().describe('Key for Qdrant.'),
    MEMORY_SEARCH_TIMEOUT: milliseconds(1_000).describe(
      "Longest wait for Qdrant, and for the question's vector; then words alone answer.",
    ),
    MEMORY_WRITE_TIMEOUT: milliseconds(60_000).describe('Longest write to Qdrant.'),
    MEMORY_UNUSED_DAYS: count(30, 3_650).describe(
      'Days after which the collection of a memory that nobody used is dropped. The next search has it made anew.',
    ),
    MEMORY_LAYOUT: z
      .enum(['per-agent', 'shared'])
      .default('per-agent')
      .describe(
        "Whether each agent's vectors have a collection of their own in Qdrant or all lie in one. After a change memories are made anew at their next use.",
      ),
    MEMORY_MAX_COLLECTIONS: count(1_000, 1_000_000).describe(
      'Most collections that are kept at once, where each agent has its own. Above it the least recently used are dropped; the next search has them made anew.',
    ),
    TOKEN_ISSUER: z.string().min(1).describe('The `iss` that tokens must carry.'),
    TOKEN_AUDIENCE: z.string().min(1).default('retinue').describe('The `aud` that tokens must carry.'),
    TOKEN_JWKS_URL: z.url().optional().describe("The identity provider's key set. Give this or TOKEN_PUBLIC_KEY."),
    TOKEN_JWKS_MAX_AGE: milliseconds(600_000).describe('Age at which the key set is fetched again.'),
    TOKEN_JWKS_COOLDOWN: milliseconds(10_000).describe(
      'Shortest time between two fetches of the key set, whatever keys tokens name.',
    ),
    TOKEN_PUBLIC_KEY: z.string().optional().describe('A single public key as JWK (JSON), for development.'),
    HOST: z.string().default('127.0.0.1').describe('Address to listen on.'),
    PORT: z.coerce.number().int().min(0).max(65_535).default(4000).describe('Port of the API; 0 takes any free one.'),
    METRICS_PORT: z.coerce
      .number()
      .int()
      .min(0)
      .max(65_535)
      .optional()
      .describe('Port of metrics and health, for operators only; 0 takes any free one. Without it there is none.'),
    METRICS_HOST: z.string().default('127.0.0.1').describe('Address to serve metrics on. Keep it off public networks.'),
    TRACES_URL: z
      .url()
      .optional()
      .describe(
        'Where traces are sent by OTLP over HTTP, such as http://collector:4318/v1/traces. Without it none are made.',
      ),
    TRACES_RATIO: z.coerce.number().min(0).max(1).default(1).describe('Share of requests that are traced.'),
    LOG_LEVEL: z
      .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
      .default('info')
      .describe('Least severe lines to write.'),
    POOL_SIZE: z.coerce
      .number()
      .int()
      .min(10)
      .max(50)
      .default(20)
      .describe('Most Postgres connections of the API process, from 10 to 50; the same again for a worker.'),
    POOL_TIMEOUT: milliseconds(30_000).describe('Longest wait for a connection.'),
    STATEMENT_TIMEOUT: milliseconds(15_000).describe('Longest run of one SQL statement.'),
    WORKER_SLOTS: count(20, 500).describe('Most tasks that a worker process runs at once.'),
    WORKER_POLL_INTERVAL: milliseconds(1_000).describe('How often a worker looks for tasks when no wake-up arrives.'),
    TASK_TIMEOUT: milliseconds(600_000).describe('Longest run of a task.'),
    TASK_LEASE: milliseconds(10_000).describe('How long a silent worker keeps its tasks.'),
    AGENT_MAX_TURNS: count(12, 100).describe(
      'Most answers of a model for one task of an agent, calls of tools included.',
    ),
    TOOL_RESULT_LENGTH: count(20_000, 1_000_000).describe(
      'Most characters of one result of a tool that a model is told.',
    ),
    APPROVAL_TIMEOUT: milliseconds(300_000).describe(
      'Time to decide what was asked, where neither tool nor agent says otherwise.',
    ),
    PLANNING_TIMEOUT: milliseconds(5_000).describe('Longest wait for a plan; then a simple one stands in.'),
    PLAN_CACHE_LIFE: milliseconds(3_600_000).describe('How long a plan is used for equal requests to an equal team.'),
    SESSION_RETENTION_DAYS: count(7, 3_650).describe('Days that an expired session stays readable.'),
    EVENT_RETENTION_DAYS: count(30, 3_650).describe('Days that an event stays in the log.'),
    EVENTS_PER_SESSION: count(1_000, 100_000).describe('Newest events of a session that stay in the log.'),
    MODEL_CONNECT_TIMEOUT: milliseconds(60_000).describe("Longest wait for a model's first token."),
    MODEL_IDLE_TIMEOUT: milliseconds(60_000).describe('Longest silence in the middle of an answer.'),
    MCP_LIST_MAX_AGE: milliseconds(3_600_000).describe('Age at which an MCP server is asked for its tools again.'),
    SECRET_KEYS: secretKeys.describe(
      'Keys for secrets of tools, as `id:key` with 32 bytes in Base64 and commas in between. The first one encrypts, the others still decrypt. Without one no secrets are taken.',
    ),
    OUTGOING_ALLOW: origins.describe(
      'Origins that tools may reach whatever their address, such as `http://127.0.0.1:8080`, with commas in between. Development only.',
    ),
    MODEL_REQUESTS_PER_MINUTE: count(10_000, 10_000_000).describe(
      'Requests a minute that the provider allows, for each model in MODEL_LIMITS and for all others together.',
    ),
    MODEL_TOKENS_PER_MINUTE: count(10_000_000, 10_000_000_000).describe(
      'Tokens a minute that the provider allows, likewise.',
    ),
    MODEL_LIMITS: table(modelLimits).describe(
      'Models with a budget of their own, as JSON: `{"gpt-x":{"requestsPerMinute":500,"tokensPerMinute":200000}}`.',
    ),
    MODEL_PRICES: table(modelPrice).describe(
      'US dollars per million tokens, as JSON: `{"gpt-x":{"prompt":2.5,"completion":10}}`. Models not in it cost nothing.',
    ),
    MODEL_WAIT_TIMEOUT: milliseconds(60_000).describe('Longest wait of a call for its turn with the model.'),
    MODEL_MAX_WAITING: count(5_000, 100_000).describe('Most calls that wait for a turn in a process.'),
    MODEL_MAX_WAITING_PER_USER: count(500, 100_000).describe('Most of them of one user.'),
    MODEL_FALLBACK_NAME: z
      .string()
      .min(1)
      .optional()
      .describe('Model that answers chats when the first fails or has no room. Without it there is none.'),
    MODEL_FALLBACK_BASE_URL: z.url().optional().describe('Its endpoint; by default MODEL_BASE_URL.'),
    MODEL_FALLBACK_API_KEY: z.string().min(1).optional().describe('Its key; by default MODEL_API_KEY.'),
    HEARTBEAT_INTERVAL: milliseconds(15_000).describe('Time between heartbeats of an event stream.'),
    EVENT_POLL_INTERVAL: milliseconds(2_000).describe(
      'How often the log is looked at for events while live messages can not be relied on.',
    ),
    STREAMS_PER_USER: count(1_000, 100_000).describe('Most event streams of one user on one API process.'),
    STREAMS_PER_NODE: count(20_000, 1_000_000).describe('Most event streams of one API process.'),
    DIFFERENT_STREAMS_PER_USER: count(100, 100_000).describe(
      'Most different subscriptions of one user on one API process; equal ones count once.',
    ),
    STREAM_BUFFER_BYTES: count(262_144, 67_108_864).describe(
      'Bytes that may wait for the reader of one event stream before it is ended.',
    ),
    STREAM_BUFFER_EVENTS: count(1_000, 1_000_000).describe(
      'Events that may wait for the reader of one event stream before it is ended.',
    ),
    SHUTDOWN_TIMEOUT: milliseconds(20_000).describe('How long running work may go on after a stop was asked for.'),
    GRAPHIQL: flag.default(false).describe('Serve GraphiQL on the API address.'),
    GRAPHIQL_TOKEN: z.string().optional().describe('Token that GraphiQL sends by itself. Development only.'),
    QUOTA_AGENTS: count(100, 1_000_000).describe('Most agents of a user whose row in `quotas` says nothing else.'),
    QUOTA_SESSIONS: count(10_000, 100_000_000).describe('Most sessions, likewise.'),
    QUOTA_STORED_BYTES: count(1_073_741_824, Number.MAX_SAFE_INTEGER).describe('Most bytes of documents, likewise.'),
    QUOTA_CONCURRENT_TASKS: count(1_000, 1_000_000).describe('Most tasks that wait or run at once, likewise.'),
    QUOTA_TOKENS_PER_DAY: count(10_000_000, Number.MAX_SAFE_INTEGER).describe('Most tokens on a day of UTC, likewise.'),
    RATE_LIMIT_REQUESTS: count(100, 1_000_000).describe('Requests a minute of one user.'),
    RATE_LIMIT_STREAMS: count(2_000, 1_000_000).describe(
      'Event streams that one user may open in a minute. STREAMS_PER_USER bounds how many are open.',
    ),
    RATE_LIMIT_SEND: count(30, 1_000_000).describe('Messages a minute of one user.'),
    RATE_LIMIT_INGEST: count(60, 1_000_000).describe('Documents and folders for memory a minute of one user.'),
    RATE_LIMIT_SEARCH: count(60, 1_000_000).describe('Searches of memory a minute of one user.'),
    RATE_LIMIT_COSTLY: count(10, 1_000_000).describe(
      'Memories made anew and MCP servers asked for their tools, a minute of one user.',
    ),
    SLOW_AFTER_DENIALS: count(20, 1_000_000).describe(
      'Denied attempts a minute (bad tokens, ids that are not there, requests over a limit) of one user or address after which answers to them are slowed.',
    ),
    DOCUMENT_MAX_TOKENS: count(2_000, 100_000).describe('Most tokens of a GraphQL document.'),
    DOCUMENT_MAX_DEPTH: count(15, 100).describe('Most fields within fields of a GraphQL document.'),
    DOCUMENT_MAX_ALIASES: count(50, 10_000).describe('Most aliases of a GraphQL document.'),
    DOCUMENT_MAX_COST: count(20_000, 10_000_000).describe(
      'Most fields that an answer may hold, where the fields of a list count once for each item of its page.',
    ),
    INTROSPECTION: flag
      .default(false)
      .describe('Answer questions about the schema, as GraphiQL and code generators ask.'),
    FIELD_SUGGESTIONS: flag
      .default(false)
      .describe('Let refusals of a document suggest names of the schema. Development only.'),
    PERSISTED_OPERATIONS: z
      .string()
      .optional()
      .describe(
        'File of operations that clients may name by id, as JSON: `{"<sha256>":"query ..."}` or an Apollo manifest.',
      ),
    PERSISTED_OPERATIONS_ONLY: flag.default(false).describe('Run no other operations than those of that file.'),
    TRUST_PROXY: flag.default(false).describe('Take the client address from X-Forwarded-For.'),
  })
  .check((context) => {
    const { TOKEN_JWKS_URL, TOKEN_PUBLIC_KEY } = context.value;
    if ((TOKEN_JWKS_URL === undefined) === (TOKEN_PUBLIC_KEY === undefined)) {
      context.issues.push({
        code: 'custom',
        message: 'give exactly one of TOKEN_JWKS_URL and TOKEN_PUBLIC_KEY',
        input: undefined,
        path: ['TOKEN_JWKS_URL'],
      });
    }
  });

export type Config = z.output<typeof rules>;

/** Thrown with every setting at fault, one line each. The values themselves are not repeated: they may be secrets. */
export class ConfigError extends Error {
  constructor(lines: string[]) {
    super(`The configuration is not valid:\n${lines.map((line) => `  ${line}`).join('\n')}`);
    this.name = 'ConfigError';
  }
}

/** Reads all settings at once. @throws ConfigError */
export function readConfig(environment: Record<string, string | undefined>): Config {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const result = rules.safeParse(given);
  if (!result.success) {
    throw new ConfigError(result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`));
  }
  return result.data;
}

/** Name, meaning and default of each setting, for the documentation. */
export function describeConfig(): { name: string; description: string; fallback: string | null }[] {
  return Object.entries(rules.shape).map(([name, rule]) => {
    const fallback = rule.safeParse(undefined);
    return {
      name,
      description: rule.description ?? '',
      fallback: fallback.success ? String(fallback.data ?? '') || null : null,
    };
  });
}
