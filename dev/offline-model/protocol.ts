import { z } from 'zod';

/** The model's own name, in every answer whatever name was asked for: nobody shall take it for another one. */
export const MODEL_ID = 'offline-1';
export const EMBEDDING_MODEL_ID = 'offline-embedding-1';
export const FINGERPRINT = 'offline-rules-1';

const jsonSchema = z.record(z.string(), z.unknown());

/** A JSON Schema as it came over the wire. */
export type JsonSchema = z.infer<typeof jsonSchema>;

const content = z
  .union([z.string(), z.array(z.looseObject({ type: z.string(), text: z.string().optional() }))])
  .nullish();

const wireMessage = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
  content,
  tool_calls: z
    .array(z.looseObject({ id: z.string(), function: z.object({ name: z.string(), arguments: z.string() }) }))
    .nullish(),
  tool_call_id: z.string().nullish(),
});

const tool = z.looseObject({
  type: z.literal('function'),
  function: z.looseObject({
    name: z.string().min(1),
    description: z.string().nullish(),
    parameters: jsonSchema.nullish(),
  }),
});

/** The parts of a chat completion request that the rules look at; the rest is accepted and ignored. */
export const chatRequest = z.looseObject({
  model: z.string().min(1),
  messages: z.array(wireMessage).min(1),
  n: z.literal(1).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  tools: z.array(tool).nullish(),
  tool_choice: z
    .union([z.enum(['none', 'auto', 'required']), z.looseObject({ function: z.looseObject({ name: z.string() }) })])
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  response_format: z
    .discriminatedUnion('type', [
      z.looseObject({ type: z.literal('text') }),
      z.looseObject({ type: z.literal('json_object') }),
      z.looseObject({ type: z.literal('json_schema'), json_schema: z.looseObject({ schema: jsonSchema.nullish() }) }),
    ])
    .nullish(),
  max_tokens: z.number().int().positive().nullish(),
  max_completion_tokens: z.number().int().positive().nullish(),
  stop: z.union([z.string(), z.array(z.string())]).nullish(),
});

export type ChatRequest = z.infer<typeof chatRequest>;

export const embeddingRequest = z.looseObject({
  model: z.string().min(1),
  input: z.union([z.string().min(1), z.array(z.string()).min(1).max(2_048)]),
  dimensions: z.number().int().min(1).max(4_096).nullish(),
  encoding_format: z.enum(['float', 'base64']).nullish(),
});

/** A call of a tool, its arguments still as values. */
export interface ToolCall {
  readonly name: string;
  readonly arguments: unknown;
}

/** A message in the one form the rules work on. */
export interface Message {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly text: string;
  readonly toolCalls: readonly { readonly id: string; readonly name: string; readonly arguments: string }[];
  readonly toolCallId: string | null;
}

/** What the model says: a text, or calls of tools. */
export type Reply =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tools'; readonly calls: readonly ToolCall[] };

/** Brings the wire's several forms of a message into one. */
export function readMessages(request: ChatRequest): Message[] {
  return request.messages.map((message) => ({
    role: toRole(message.role),
    text: readContent(message.content),
    toolCalls: (message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function })),
    toolCallId: message.tool_call_id ?? null,
  }));
}

function toRole(role: z.infer<typeof wireMessage>['role']): Message['role'] {
  if (role === 'developer') return 'system';
  return role === 'function' ? 'tool' : role;
}

function readContent(value: z.infer<typeof content>): string {
  if (typeof value === 'string') return value;
  return (value ?? []).map((part) => part.text ?? '').join('\n');
}

/** An answer other than success, in the shape OpenAI's clients read. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
  readonly status: number;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, code: string | null = null, headers: Record<string, string> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }

  toBody(): unknown {
    return { error: { message: this.message, type: errorType(this.status), param: null, code: this.code } };
  }
}

function errorType(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

/**
 * Reads a body by its schema.
 *
 * @throws ProtocolError 400 that names the first field at fault.
 */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(400, `Invalid request: ${issue?.path.join('.') || 'body'}: ${issue?.message ?? 'invalid'}.`);
}
