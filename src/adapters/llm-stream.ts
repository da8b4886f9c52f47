import type OpenAI from 'openai';
import { DomainError } from '../errors.ts';

/** A call of a tool as the model wrote it. Name and arguments may be anything: the caller checks them. */
export interface ToolCall {
  /** The model's name of the call, by which its result is given back. */
  id: string;
  name: string;
  /** JSON, if the model kept to it. */
  arguments: string;
}

export interface ChatAnswer {
  content: string;
  toolCalls: ToolCall[];
  model: string;
  promptTokens: number;
  completionTokens: number;
}

/** How an answer is gathered from its stream. */
export interface Gathering {
  model: string;
  /** Longest silence in the middle of an answer, in milliseconds. */
  idleTimeout: number;
  /** Aborted when the model fell silent; part of `signal`. */
  silence: AbortController;
  signal: AbortSignal;
}

/** Most characters of one answer that are kept, calls of tools included: a model that never stops must not fill memory. */
const longestAnswer = 400_000;
/** Most calls of tools in one answer; each of them may start work. */
const mostCalls = 64;

/**
 * Puts a streamed answer together.
 * @throws DomainError MODEL_UNAVAILABLE when it ends in the middle; the signal's reason when it fired
 */
export async function gatherAnswer(
  stream: AsyncIterable<OpenAI.ChatCompletionChunk>,
  { model, idleTimeout, silence, signal }: Gathering,
  onText: (text: string) => void,
): Promise<ChatAnswer> {
  const answer: ChatAnswer = { content: '', toolCalls: [], model, promptTokens: 0, completionTokens: 0 };
  let finished = false;
  let length = 0;
  const timer = setTimeout(() => silence.abort(new Error('the model fell silent')), idleTimeout);
  try {
    for await (const chunk of stream) {
      timer.refresh();
      const choice = chunk.choices[0];
      const text = choice?.delta.content ?? '';
      if (text !== '') {
        answer.content += text;
        onText(text);
      }
      length += text.length + addCallParts(answer.toolCalls, choice?.delta.tool_calls ?? []);
      finished ||= typeof choice?.finish_reason === 'string';
      answer.model = chunk.model || answer.model;
      answer.promptTokens = chunk.usage?.prompt_tokens ?? answer.promptTokens;
      answer.completionTokens = chunk.usage?.completion_tokens ?? answer.completionTokens;
      if (length > longestAnswer) {
        break;
      }
    }
  } finally {
    clearTimeout(timer);
  }
  if (signal.aborted) {
    throw signal.reason;
  }
  if (length > longestAnswer) {
    // Arguments that were cut off are no arguments.
    return { ...answer, toolCalls: [] };
  }
  if (!finished) {
    throw new DomainError('MODEL_UNAVAILABLE', 'The model ended its answer in the middle.');
  }
  return answer;
}

/** @returns how many characters came */
function addCallParts(calls: ToolCall[], parts: readonly OpenAI.ChatCompletionChunk.Choice.Delta.ToolCall[]): number {
  let length = 0;
  for (const part of parts) {
    if (!Number.isInteger(part.index) || part.index < 0 || part.index > calls.length || part.index >= mostCalls) {
      continue;
    }
    const call = calls[part.index] ?? { id: '', name: '', arguments: '' };
    calls[part.index] = call;
    call.id += part.id ?? '';
    call.name += part.function?.name ?? '';
    call.arguments += part.function?.arguments ?? '';
    length += (part.function?.name ?? '').length + (part.function?.arguments ?? '').length;
  }
  return length;
}
