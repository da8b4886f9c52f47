import { type Builder, decodeId } from '../schema/builder.ts';
import type { addMessage } from '../schema/message.ts';
import { messageById, type SentMessage, sendMessage } from '../services/message.ts';
import { sessionById } from '../services/session.ts';
import { taskById } from '../services/task.ts';
import { mutate } from './mutation.ts';

export function addMessageFields(builder: Builder, types: ReturnType<typeof addMessage>): void {
  const sent = builder.objectRef<SentMessage>('SendMessagePayload').implement({
    description: 'A message was stored and its answer is on the way. Members are null when they were deleted since.',
    fields: (t) => ({
      message: t.field({
        type: 'Message',
        nullable: true,
        description: 'The stored message.',
        resolve: ({ messageId }, _arguments, context) => messageById(context.operation.read, messageId),
      }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to.',
        resolve: ({ sessionId }, _arguments, context) => sessionById(context.operation.read, sessionId),
      }),
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that answers it, or that plans the answer.',
        resolve: ({ taskId }, _arguments, context) => taskById(context.operation.read, taskId),
      }),
    }),
  });
  builder.mutationField('sendMessage', (t) =>
    t.field({
      type: sent,
      nullable: true,
      description:
        'Sends a message straight to one agent, or without a target to the whole team: then the orchestrator makes a plan. The ' +
        'answer arrives as `MessageDelta` and `MessageCreated` events. Errors: BAD_USER_INPUT, MESSAGE_TOO_LARGE, NOT_FOUND, ' +
        'SESSION_EXPIRED, SESSION_BUSY, AGENT_QUEUE_FULL, NO_AGENTS, QUOTA_EXCEEDED, RATE_LIMITED.',
      args: { input: t.arg({ type: types.sendInput, required: true, description: 'The message.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, input, (operation) =>
          sendMessage(operation, {
            sessionId: decodeId(input.sessionId, 'Session', 'input.sessionId'),
            targetAgentId: input.targetAgentId && decodeId(input.targetAgentId, 'Agent', 'input.targetAgentId'),
            content: input.content,
            busyPolicy: input.busyPolicy,
          }),
        ),
    }),
  );
}
