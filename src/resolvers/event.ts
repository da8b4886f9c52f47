import type { EventType } from '../outbox.ts';
import { type Builder, decodeId } from '../schema/builder.ts';
import type { addEvent } from '../schema/event.ts';

export function addEventFields(builder: Builder, types: ReturnType<typeof addEvent>): void {
  builder.subscriptionField('events', (t) =>
    t.field({
      type: types.event,
      description:
        'What happens to what you own, in the order of commits. ' +
        'The stream ends when your token does. Errors: BAD_CURSOR, BAD_USER_INPUT, STREAM_LIMIT.',
      args: {
        after: t.arg.string({
          description: 'Cursor of the newest event you have. What came after it is sent first. Leave out to start now.',
        }),
        sessionId: t.arg.id({ description: 'Only events of this session.' }),
        types: t.arg({ type: [types.type], description: 'Only events of these kinds. Heartbeats always come.' }),
      },
      subscribe: (_root, { after, sessionId, types: wanted }, context) =>
        context.readEvents({
          after: after ?? null,
          filter: {
            sessionId: sessionId ? decodeId(sessionId, 'Session', 'sessionId') : null,
            types: new Set((wanted ?? []) as (EventType | 'message_delta')[]),
          },
        }),
      resolve: (item) => item,
    }),
  );
}
