import { type Builder, decodeId } from '../schema/builder.ts';
import type { addSession } from '../schema/session.ts';
import { createSession, deleteSession, listSessions, sessionById, updateSession } from '../services/session.ts';
import { mutate } from './mutation.ts';

export function addSessionFields(builder: Builder, types: ReturnType<typeof addSession>): void {
  builder.queryField('sessions', (t) =>
    t.connection(
      {
        type: 'Session',
        description: 'Your sessions, most recently used first.',
        args: {
          search: t.arg.string({ description: 'Keeps sessions whose title holds this text, whatever the case.' }),
        },
        resolve: (_root, { search, ...page }, context) => listSessions(context.operation.read, page, search),
      },
      { name: 'SessionConnection' },
      { name: 'SessionEdge' },
    ),
  );
  builder.queryField('session', (t) =>
    t.field({
      type: 'Session',
      nullable: true,
      description: 'One of your sessions; null when you have none of that id.',
      args: { id: t.arg.id({ required: true, description: 'Id of the session.' }) },
      resolve: (_root, { id }, context) => sessionById(context.operation.read, decodeId(id, 'Session', 'id')),
    }),
  );

  const changed = builder.objectRef<{ sessionId: string }>('SessionPayload').implement({
    description: 'A session after a change.',
    fields: (t) => ({
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session; null when it was deleted since.',
        resolve: ({ sessionId }, _arguments, context) => sessionById(context.operation.read, sessionId),
      }),
    }),
  });
  const deleted = builder.objectRef<{ deletedSessionId: string }>('DeleteSessionPayload').implement({
    description: 'A session is gone.',
    fields: (t) => ({ deletedSessionId: t.exposeID('deletedSessionId', { description: 'Id that it had.' }) }),
  });

  builder.mutationField('createSession', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Opens a session. Errors: BAD_USER_INPUT, QUOTA_EXCEEDED.',
      args: { input: t.arg({ type: types.createInput, description: 'The new session.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, input, (operation) => createSession(operation, input ?? {}, context.clientAddress)),
    }),
  );
  builder.mutationField('updateSession', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description: 'Changes a session. Errors: NOT_FOUND, BAD_USER_INPUT.',
      args: {
        id: t.arg.id({ required: true, description: 'Id of the session.' }),
        input: t.arg({ type: types.updateInput, required: true, description: 'What to change.' }),
      },
      resolve: (_root, { id, input }, context, info) =>
        mutate(context, info, { id, input }, (operation) =>
          updateSession(operation, decodeId(id, 'Session', 'id'), input),
        ),
    }),
  );
  builder.mutationField('deleteSession', (t) =>
    t.field({
      type: deleted,
      nullable: true,
      description: 'Deletes a session with its messages, tasks and events. Errors: NOT_FOUND.',
      args: { id: t.arg.id({ required: true, description: 'Id of the session.' }) },
      resolve: (_root, { id }, context, info) =>
        mutate(context, info, { id }, async (operation) => {
          await deleteSession(operation, decodeId(id, 'Session', 'id'));
          return { deletedSessionId: id };
        }),
    }),
  );
}
