import OpenAI from 'openai';
import { DomainError } from '../errors.ts';
import { type ChatAnswer, gatherAnswer, type ToolCall } from './llm-stream.ts';
import { createEventStreamClient, HttpStatusError } from './llm-wire.ts';

export type { ChatAnswer, ToolCall };

export type ChatMessage =
  | { role: 'system' | 'user'; content: string }
  | { role: 'assistant'; content: string; toolCalls?: readonly ToolCall[] }
  /** What a call of a tool gave, or why it gave nothing. */
  | { role: 'tool'; callId: string; content: string };

/** A tool as the model is told of it. */
export interface ToolDescription {
  name: string;
  description: string;
  /** JSON Schema of the arguments. */
  argumentsSchema: Record<string, unknown>;
}

export interface ChatRequest {
  model: string | null;
  temperature: number | null;
  messages: readonly ChatMessage[];
  /** Tools that the model may call; several at once. */
  tools?: readonly ToolDescription[];
  /** The answer shall be JSON of this schema. The model may fail to keep to it: the caller checks. */
  answerSchema?: { name: string; schema: Record<string, unknown> };
  /** Called when the endpoint begins to answer: by then it has the request. */
  onArrival?: () => void;
  /** Ends the call at once, also in the middle of the stream. */
  signal: AbortSignal;
}

export interface EmbeddingRequest {
  model: string | null;
  /** At most 2,048, none of them empty. */
  texts: readonly string[];
  signal: AbortSignal;
}

export interface Embeddings {
  /** One for each text, in their order. */
  vectors: number[][];
  model: string;
  promptTokens: number;
  /** They were known from an equal request: the model was not asked for them. */
  isKept?: boolean;
}

/** Any endpoint that speaks OpenAI's protocol. */
export interface LanguageModel {
  /**
   * Asks for an answer and hands out its text piece by piece.
   * @throws DomainError MODEL_UNAVAILABLE, MODEL_RATE_LIMITED, MODEL_REFUSED; the signal's own reason when it fired
   */
  chat(request: ChatRequest, onText: (text: string) => void): Promise<ChatAnswer>;
  /**
   * Turns texts into vectors of one length.
   * @throws DomainError MODEL_UNAVAILABLE, MODEL_RATE_LIMITED, MODEL_REFUSED; the signal's own reason when it fired
   */
  embed(request: EmbeddingRequest): Promise<Embeddings>;
}

export interface LanguageModelOptions {
  baseUrl: string;
  apiKey: string;
  defaultModel: string;
  defaultEmbeddingModel: string;
  /** Longest wait for the first byte of an answer, in milliseconds. */
  connectTimeout: number;
  /** Longest silence in the middle of an answer, in milliseconds. */
  idleTimeout: number;
}

export function createLanguageModel(options: LanguageModelOptions): LanguageModel {
  const client = new OpenAI({
    baseURL: options.baseUrl,
    apiKey: options.apiKey,
    timeout: options.connectTimeout,
    // Retries belong to the task engine, which knows the user's limits and survives a crash.
    maxRetries: 0,
  });
  // Streams pass the client by: it spends three times the processor time on them.
  const readEvents = createEventStreamClient({
    ...options,
    url: new URL(`${options.baseUrl.replace(/\/$/, '')}/chat/completions`),
  });
  return {
    chat: (request, onText) =>
      asDomainErrors(request.signal, async () => {
        const model = request.model ?? options.defaultModel;
        const answer = gatherAnswer(model, onText);
        const { signal, onArrival } = request;
        const body = JSON.stringify(toWireRequest(request, model));
        await readEvents({ body, signal, ...(onArrival && { onArrival }), onData: answer.take });
        return answer.end();
      }),
    embed: (request) => asDomainErrors(request.signal, () => embed(client, options, request)),
  };
}

function toWireRequest(request: ChatRequest, model: string): OpenAI.ChatCompletionCreateParamsStreaming {
  const { tools = [], answerSchema } = request;
  return {
    model,
    messages: request.messages.map(toWireMessage),
    stream: true,
    stream_options: { include_usage: true },
    ...(request.temperature === null ? {} : { temperature: request.temperature }),
    ...(tools.length === 0 ? {} : { tools: tools.map(toWireTool) }),
    ...(answerSchema === undefined
      ? {}
      : { response_format: { type: 'json_schema', json_schema: { ...answerSchema, strict: true } } }),
  };
}

async function embed(client: OpenAI, options: LanguageModelOptions, request: EmbeddingRequest): Promise<Embeddings> {
  const model = request.model ?? options.defaultEmbeddingModel;
  const answer = await client.embeddings.create(
    { model, input: [...request.texts], encoding_format: 'float' },
    { signal: request.signal },
  );
  const vectors = answer.data.toSorted((one, other) => one.index - other.index).map(({ embedding }) => embedding);
  const length = vectors[0]?.length ?? 0;
  if (vectors.length !== request.texts.length || vectors.some((vector) => vector.length !== length || length === 0)) {
    throw new DomainError('MODEL_UNAVAILABLE', 'The model gave vectors of another number or length than asked for.');
  }
  return { vectors, model: answer.model || model, promptTokens: answer.usage?.prompt_tokens ?? 0 };
}

function toWireMessage(message: ChatMessage): OpenAI.ChatCompletionMessageParam {
  if (message.role === 'tool') {
    return { role: 'tool', tool_call_id: message.callId, content: message.content };
  }
  if (message.role === 'assistant' && message.toolCalls !== undefined && message.toolCalls.length > 0) {
    return {
      role: 'assistant',
      content: message.content,
      tool_calls: message.toolCalls.map(({ id, name, arguments: given }) => ({
        id,
        type: 'function',
        function: { name, arguments: given },
      })),
    };
  }
  return { role: message.role, content: message.content };
}

function toWireTool({ name, description, argumentsSchema }: ToolDescription): OpenAI.ChatCompletionTool {
  return { type: 'function', function: { name, description, parameters: argumentsSchema } };
}

async function asDomainErrors<Result>(caller: AbortSignal, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (caller.aborted) {
      throw caller.reason;
    }
    throw toDomainError(error);
  }
}

/** The provider's own message may quote the prompt, so that only its kind reaches the caller. */
function toDomainError(error: unknown): DomainError {
  if (error instanceof DomainError) {
    return error;
  }
  const refusal = refusalOf(error);
  if (refusal?.status === 429) {
    return new DomainError('MODEL_RATE_LIMITED', 'The model provider refuses more requests for now.', {
      ...retryAfter(refusal.retryAfter),
      cause: error,
    });
  }
  if (refusal !== null && refusal.status < 500 && refusal.status !== 408 && refusal.status !== 409) {
    return new DomainError('MODEL_REFUSED', `The model provider rejected the request (HTTP ${refusal.status}).`, {
      cause: error,
    });
  }
  return new DomainError('MODEL_UNAVAILABLE', 'The model did not answer.', { cause: error });
}

function refusalOf(error: unknown): Pick<HttpStatusError, 'status' | 'retryAfter'> | null {
  if (error instanceof OpenAI.APIError && typeof error.status === 'number') {
    return { status: error.status, retryAfter: error.headers?.get('retry-after') ?? null };
  }
  return error instanceof HttpStatusError ? error : null;
}

function retryAfter(header: string | null): { retryAfter?: number } {
  const seconds = Number(header ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? { retryAfter: Math.ceil(Math.min(seconds, 3_600)) } : {};
}

/** Longest time that an answer of the probe counts, in milliseconds: providers count requests. */
const probeInterval = 30_000;

/**
 * Asks the endpoint for its list of models, at most every 30 seconds.
 * @returns a function that answers `up`, `refused` when the key is not taken, or `failing`; it throws when nobody answers
 */
export function createModelProbe(options: { baseUrl: string; apiKey: string }): () => Promise<string> {
  const url = `${options.baseUrl.replace(/\/$/, '')}/models`;
  let latest: { at: number; state: Promise<string> } | null = null;
  const ask = async (): Promise<string> => {
    const response = await fetch(url, {
      headers: { authorization: `Bearer ${options.apiKey}` },
      signal: AbortSignal.timeout(2_000),
    });
    await response.body?.cancel();
    if (response.status === 401 || response.status === 403) {
      return 'refused';
    }
    // An endpoint without a list of models answers 404 and is there all the same.
    return response.status >= 500 ? 'failing' : 'up';
  };
  return () => {
    const now = performance.now();
    if (latest === null || now - latest.at > probeInterval) {
      const state = ask();
      latest = { at: now, state };
      // What is away is asked again at the next question.
      const forget = (): void => {
        latest = null;
      };
      state.then((word) => (word === 'up' ? undefined : forget()), forget);
    }
    return latest.state;
  };
}
