import OpenAI from 'openai';
import { DomainError } from '../errors.ts';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatRequest {
  model: string | null;
  temperature: number | null;
  messages: ChatMessage[];
  /** Ends the call at once, also in the middle of the stream. */
  signal: AbortSignal;
}

export interface ChatAnswer {
  content: string;
  model: string;
  promptTokens: number;
  completionTokens: number;
}

/** Any endpoint that speaks OpenAI's protocol. */
export interface LanguageModel {
  /**
   * Asks for an answer and hands out its text piece by piece.
   * @throws DomainError MODEL_UNAVAILABLE, MODEL_RATE_LIMITED, MODEL_REFUSED; the signal's own reason when it fired
   */
  chat(request: ChatRequest, onText: (text: string) => void): Promise<ChatAnswer>;
}

export interface LanguageModelOptions {
  baseUrl: string;
  apiKey: string;
  defaultModel: string;
  /** Longest wait for the first byte of an answer, in milliseconds. */
  connectTimeout: number;
  /** Longest silence in the middle of an answer, in milliseconds. */
  idleTimeout: number;
}

/** Most characters of one answer that are kept: a model that never stops must not fill memory. */
const longestAnswer = 400_000;

export function createLanguageModel(options: LanguageModelOptions): LanguageModel {
  const client = new OpenAI({
    baseURL: options.baseUrl,
    apiKey: options.apiKey,
    timeout: options.connectTimeout,
    // Retries belong to the task engine, which knows the user's limits and survives a crash.
    maxRetries: 0,
  });
  return {
    chat: async (request, onText) => {
      const silence = new AbortController();
      const signal = AbortSignal.any([request.signal, silence.signal]);
      try {
        return await streamAnswer(client, options, request, signal, silence, onText);
      } catch (error) {
        if (request.signal.aborted) {
          throw request.signal.reason;
        }
        throw toDomainError(error);
      }
    },
  };
}

async function streamAnswer(
  client: OpenAI,
  options: LanguageModelOptions,
  request: ChatRequest,
  signal: AbortSignal,
  silence: AbortController,
  onText: (text: string) => void,
): Promise<ChatAnswer> {
  const model = request.model ?? options.defaultModel;
  const stream = await client.chat.completions.create(
    {
      model,
      messages: request.messages,
      stream: true,
      stream_options: { include_usage: true },
      ...(request.temperature === null ? {} : { temperature: request.temperature }),
    },
    { signal },
  );
  const answer: ChatAnswer = { content: '', model, promptTokens: 0, completionTokens: 0 };
  let finished = false;
  const timer = setTimeout(() => silence.abort(new Error('the model fell silent')), options.idleTimeout);
  try {
    for await (const chunk of stream) {
      timer.refresh();
      const choice = chunk.choices[0];
      const text = choice?.delta.content ?? '';
      if (text !== '') {
        answer.content += text;
        onText(text);
      }
      finished ||= typeof choice?.finish_reason === 'string';
      answer.model = chunk.model || answer.model;
      answer.promptTokens = chunk.usage?.prompt_tokens ?? answer.promptTokens;
      answer.completionTokens = chunk.usage?.completion_tokens ?? answer.completionTokens;
      if (answer.content.length > longestAnswer) {
        break;
      }
    }
  } finally {
    clearTimeout(timer);
  }
  if (signal.aborted) {
    throw signal.reason;
  }
  if (!finished && answer.content.length <= longestAnswer) {
    throw new DomainError('MODEL_UNAVAILABLE', 'The model ended its answer in the middle.');
  }
  return answer;
}

/** The provider's own message may quote the prompt, so that only its kind reaches the caller. */
function toDomainError(error: unknown): DomainError {
  if (error instanceof DomainError) {
    return error;
  }
  if (error instanceof OpenAI.APIError && typeof error.status === 'number') {
    if (error.status === 429) {
      return new DomainError('MODEL_RATE_LIMITED', 'The model provider refuses more requests for now.', {
        ...retryAfter(error.headers),
        cause: error,
      });
    }
    if (error.status < 500 && error.status !== 408 && error.status !== 409) {
      return new DomainError('MODEL_REFUSED', `The model provider rejected the request (HTTP ${error.status}).`, {
        cause: error,
      });
    }
  }
  return new DomainError('MODEL_UNAVAILABLE', 'The model did not answer.', { cause: error });
}

function retryAfter(headers: Headers | undefined): { retryAfter?: number } {
  const seconds = Number(headers?.get('retry-after') ?? Number.NaN);
  return Number.isFinite(seconds) && seconds >= 0 ? { retryAfter: Math.ceil(Math.min(seconds, 3_600)) } : {};
}
