import { listSessionMessages } from '../services/message.ts';
import { sessionById } from '../services/session.ts';
import { listSessionTasks } from '../services/task.ts';
import type { Builder } from './builder.ts';
import type { addMessage } from './message.ts';
import type { addTask } from './task.ts';

/** The session with its inputs. */
export function addSession(
  builder: Builder,
  types: {
    messages: ReturnType<typeof addMessage>['connection'];
    busyPolicy: ReturnType<typeof addMessage>['busyPolicy'];
    tasks: ReturnType<typeof addTask>['connection'];
  },
) {
  builder.node('Session', {
    description: 'A conversation with your team.',
    id: { resolve: (session) => session.id },
    loadOne: (id, context) => sessionById(context.operation.read, id),
    fields: (t) => ({
      title: t.exposeString('title', { description: 'Its title, yours to choose.' }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was opened.' }),
      lastAccessedAt: t.expose('lastAccessedAt', {
        type: 'DateTime',
        description: 'When the last message was stored.',
      }),
      expiresAt: t.expose('expiresAt', {
        type: 'DateTime',
        description: 'From then on it takes no more messages. Each message moves it to 30 days ahead.',
      }),
      busyPolicy: t.expose('busyPolicy', {
        type: types.busyPolicy,
        description: 'What happens to a message that arrives while tasks of the session are open.',
      }),
      requestCount: t.exposeInt('requestCount', { description: 'How many messages you sent.' }),
      messageCount: t.exposeInt('messageCount', { description: 'How many messages it holds, answers included.' }),
      clientAddress: t.exposeString('clientAddress', { nullable: true, description: 'Address that opened it.' }),
      messages: t.connection(
        {
          type: 'Message',
          description: 'Its messages in their order; `last: 10` gives the newest ten.',
          resolve: (session, page, context) => listSessionMessages(context.operation.read, session.id, page),
        },
        types.messages,
      ),
      tasks: t.connection(
        {
          type: 'Task',
          description: 'Its tasks, newest first.',
          resolve: (session, page, context) => listSessionTasks(context.operation.read, session.id, page),
        },
        types.tasks,
      ),
    }),
  });
  const createInput = builder.inputType('CreateSessionInput', {
    description: 'A new session.',
    fields: (t) => ({
      title: t.string({ description: 'Its title: 1 to 200 characters; default "New session".' }),
      busyPolicy: t.field({
        type: types.busyPolicy,
        description: 'What happens to a message that arrives while tasks are open. Default QUEUE.',
      }),
    }),
  });
  const updateInput = builder.inputType('UpdateSessionInput', {
    description: 'Changes of a session. Members left out stay as they are.',
    fields: (t) => ({
      title: t.string({ description: 'Its title: 1 to 200 characters.' }),
      busyPolicy: t.field({
        type: types.busyPolicy,
        description: 'What happens to a message that arrives while tasks are open.',
      }),
    }),
  });
  return { createInput, updateInput };
}
