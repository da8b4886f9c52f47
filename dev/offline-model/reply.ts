import { answerInWords } from './answer.ts';
import { readConversation } from './conversation.ts';
import type { ChatRequest, Message, Reply } from './protocol.ts';

/** What the rules say to a request; the same request always gets the same reply. */
export function reply(_request: ChatRequest, messages: readonly Message[]): Reply {
  return { kind: 'text', text: answerInWords(readConversation(messages)) };
}
