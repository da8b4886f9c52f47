import { BusyPolicy, MessageRole } from '../generated/prisma/enums.ts';
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
  const busyPolicy = builder.enumType('BusyPolicy', {
    description: 'What happens to a message that arrives while its session has open tasks.',
    values: {
      QUEUE: { description: 'It waits for its turn.', value: BusyPolicy.QUEUE },
      REJECT: { description: 'It is refused with SESSION_BUSY, and nothing is stored.', value: BusyPolicy.REJECT },
      INTERRUPT: { description: 'It cancels what is open, and is next.', value: BusyPolicy.INTERRUPT },
    } as const,
  });
  const sendInput = builder.inputType('SendMessageInput', {
    description: 'A message for one agent, or for the whole team.',
    fields: (t) => ({
      sessionId: t.id({ required: true, description: 'The session to write in.' }),
      targetAgentId: t.id({
        description: 'The agent that shall answer. Leave it out to let the orchestrator plan for the whole team.',
      }),
      content: t.string({ required: true, description: 'The text: not empty, at most 100 kB of UTF-8.' }),
      busyPolicy: t.field({
        type: busyPolicy,
        description: 'What happens when the session has open tasks. Leave it out for what the session does by default.',
      }),
    }),
  });
  const connection = builder.connectionObject({ type: 'Message', name: 'MessageConnection' }, { name: 'MessageEdge' });
  return { sendInput, busyPolicy, connection };
}
