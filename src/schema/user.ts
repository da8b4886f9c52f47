import { userById } from '../services/user.ts';
import type { Builder } from './builder.ts';

/** The calling user. */
export function addUser(builder: Builder): void {
  builder.node('User', {
    description: 'You: the user whose token was sent.',
    id: { resolve: (user) => user.id },
    loadOne: (id, context) => userById(context.operation.read, id),
    fields: (t) => ({
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When you were first seen.' }),
    }),
  });
}
