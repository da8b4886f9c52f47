import { TaskState } from '../generated/prisma/enums.ts';
import { agentById } from '../services/agent.ts';
import { messageById } from '../services/message.ts';
import { sessionById } from '../services/session.ts';
import { taskById } from '../services/task.ts';
import { type Builder, encodeId } from './builder.ts';

/** The task with its enum. */
export function addTask(builder: Builder) {
  const state = builder.enumType('TaskState', {
    description: 'Where a task stands. COMPLETED, FAILED, CANCELLED and SKIPPED are final.',
    values: {
      BLOCKED: { description: 'Waits for the tasks it depends on.', value: TaskState.BLOCKED },
      QUEUED: { description: 'Waits for a free worker.', value: TaskState.QUEUED },
      RUNNING: { description: 'A worker runs it.', value: TaskState.RUNNING },
      WAITING: {
        description: 'Waits for your approval, or for the task of another agent. It holds no worker.',
        value: TaskState.WAITING,
      },
      RETRYING: { description: 'An attempt failed; the next one follows after a pause.', value: TaskState.RETRYING },
      COMPLETED: { description: 'Done.', value: TaskState.COMPLETED },
      FAILED: { description: 'Failed for good; see `errorCode`.', value: TaskState.FAILED },
      CANCELLED: { description: 'Cancelled before it was done.', value: TaskState.CANCELLED },
      SKIPPED: { description: 'Never run, because a task it depends on did not succeed.', value: TaskState.SKIPPED },
    } as const,
  });
  builder.node('Task', {
    description: 'A piece of work of an agent.',
    id: { resolve: (task) => task.id },
    loadOne: (id, context) => taskById(context.operation.read, id),
    fields: (t) => ({
      state: t.expose('state', { type: state, description: 'Where it stands.' }),
      attempt: t.exposeInt('attempt', { description: 'How often a worker has started it.' }),
      progress: t.exposeFloat('progress', { description: 'How far it has got, from 0 to 1.' }),
      progressNote: t.exposeString('progressNote', {
        nullable: true,
        description: 'What it was at when it last told.',
      }),
      errorCode: t.exposeString('errorCode', {
        nullable: true,
        description: 'Code of the last failure, as in the list of error codes; null while none happened.',
      }),
      errorMessage: t.exposeString('errorMessage', {
        nullable: true,
        description: 'What the last failure was, in words; null while none happened.',
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was queued.' }),
      startedAt: t.expose('startedAt', { type: 'DateTime', nullable: true, description: 'When it first ran.' }),
      finishedAt: t.expose('finishedAt', { type: 'DateTime', nullable: true, description: 'When it ended.' }),
      answerId: t.id({
        description: 'Id that the answer has or will have; `MessageDelta` events carry it while the answer is written.',
        resolve: (task) => encodeId('Message', task.answerId),
      }),
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent it belongs to; null when that was deleted.',
        resolve: (task, _arguments, context) =>
          task.agentId === null ? null : agentById(context.operation.read, task.agentId),
      }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to.',
        resolve: (task, _arguments, context) =>
          task.sessionId === null ? null : sessionById(context.operation.read, task.sessionId),
      }),
      message: t.field({
        type: 'Message',
        nullable: true,
        description: 'The message it answers.',
        resolve: (task, _arguments, context) =>
          task.messageId === null ? null : messageById(context.operation.read, task.messageId),
      }),
      answer: t.field({
        type: 'Message',
        nullable: true,
        description: 'Its answer; null until it is stored.',
        resolve: (task, _arguments, context) => messageById(context.operation.read, task.answerId),
      }),
    }),
  });
  const connection = builder.connectionObject({ type: 'Task', name: 'TaskConnection' }, { name: 'TaskEdge' });
  return { state, connection };
}
