import type { Builder } from '../schema/builder.ts';
import { currentUser } from '../services/user.ts';

export function addUserFields(builder: Builder): void {
  builder.queryField('viewer', (t) =>
    t.field({
      type: 'User',
      description: 'You.',
      resolve: (_root, _arguments, context) => currentUser(context.operation.read),
    }),
  );
}
