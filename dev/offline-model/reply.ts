import { answerInWords } from './answer.ts';
import { type Conversation, readConversation } from './conversation.ts';
import { fillSchema } from './json-schema.ts';
import { makePlan } from './plan.ts';
import type { ChatRequest, JsonSchema, Message, Reply } from './protocol.ts';
import { chooseCalls } from './tools.ts';

/** What the rules say to a request; the same request always gets the same reply. */
export function reply(request: ChatRequest, messages: readonly Message[]): Reply {
  const conversation = readConversation(messages);
  const calls = chooseCalls(request, conversation);
  if (calls.length > 0) return { kind: 'tools', calls };
  const format = request.response_format;
  if (format?.type === 'json_schema') {
    return {
      kind: 'text',
      text: JSON.stringify(answerBySchema(format.json_schema.schema ?? {}, conversation, messages)),
    };
  }
  const text = answerInWords(conversation);
  return { kind: 'text', text: format?.type === 'json_object' ? JSON.stringify({ answer: text }) : text };
}

function answerBySchema(schema: JsonSchema, conversation: Conversation, messages: readonly Message[]): unknown {
  const { question } = conversation;
  const briefing = messages.map((message) => message.text).join('\n');
  return (
    makePlan(schema, question, briefing) ??
    fillSchema(schema, { text: question, root: schema, answer: answerInWords(conversation) })
  );
}
