import { MessageRole } from '../generated/prisma/enums.ts';
import { agentById } from '../services/agent.ts';
import { messageById } from '../services/message.ts';
import { sessionById } from '../services/session.ts';
import { taskById } from '../services/task.ts';
import type { Builder } from './builder.ts';

/** The message with its enum and input. */
export function addMessage(builder: Builder) {
  const role = builder.enumType('MessageRole', {
    description: 'Who wrote a message.',
    values: {
      USER: { description: 'You.', value: MessageRole.USER },
      AGENT: { description: 'One of your agents.', value: MessageRole.AGENT },
      ORCHESTRATOR: { description: 'The orchestrator, for the whole team.', value: MessageRole.ORCHESTRATOR },
    } as const,
  });
  builder.node('Message', {
    description: 'One message of a session.',
    id: { resolve: (message) => message.id },
    loadOne: (id, context) => messageById(context.operation.read, id),
    fields: (t) => ({
      position: t.exposeInt('position', { description: 'Its place in the session, from 1.' }),
      role: t.expose('role', { type: role, description: 'Who wrote it.' }),
      content: t.exposeString('content', { description: 'The text.' }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was stored.' }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to.',
        resolve: (message, _arguments, context) => sessionById(context.operation.read, message.sessionId),
      }),
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent that wrote it; null for yours and when the agent was deleted.',
        resolve: (message, _arguments, context) =>
          message.agentId === null ? null : agentById(context.operation.read, message.agentId),
      }),
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task whose answer it is; null for yours.',
        resolve: (message, _arguments, context) =>
          message.taskId === null ? null : taskById(context.operation.read, message.taskId),
      }),
    }),
  });
  const sendInput = builder.inputType('SendMessageInput', {
    description: 'A message for one agent.',
    fields: (t) => ({
      sessionId: t.id({ required: true, description: 'The session to write in.' }),
      targetAgentId: t.id({ required: true, description: 'The agent that shall answer.' }),
      content: t.string({ required: true, description: 'The text: not empty, at most 100 kB of UTF-8.' }),
    }),
  });
  const connection = builder.connectionObject({ type: 'Message', name: 'MessageConnection' }, { name: 'MessageEdge' });
  return { sendInput, connection };
}
