import { type GraphQLObjectType, type GraphQLSchema, isInterfaceType } from 'graphql';

/** The page of all kinds of events, from the schema. @throws Error when the schema has no interface `Event` */
export function eventPage(schema: GraphQLSchema, retention: { days: string; perSession: string }): string {
  const event = schema.getType('Event');
  if (!isInterfaceType(event)) {
    throw new Error('the schema has no interface Event');
  }
  const kinds = schema.getPossibleTypes(event).toSorted((one, other) => one.name.localeCompare(other.name));
  const names = filterNames(schema);
  const filterable = kinds.filter(({ name }) => names.has(constantCase(name)));
  const always = kinds.filter(({ name }) => !names.has(constantCase(name)));
  const inherited = new Set(Object.keys(event.getFields()));
  return `# Events

\`subscription { events }\` tells what happens to everything you own, over Server-Sent Events. But for the
pieces of an answer that is being written, each event is committed together with the change that it tells of: it exists if and only
if the change does, and the events of one user have one order without a gap.

| What you want | What you do |
| --- | --- |
| start now | leave out \`after\`; the first item is a \`Heartbeat\`, and from then on nothing is missed |
| come back | pass the newest \`cursor\` as \`after\`: what you missed is sent first, in order, each event once |
| one conversation only | pass its id as \`sessionId\` |
| some kinds only | pass their names as \`types\`; heartbeats always come |

The log keeps the newest ${retention.perSession} events of a session, for ${retention.days} days (\`EVENTS_PER_SESSION\`, \`EVENT_RETENTION_DAYS\`). A cursor that is older gets a
\`HistoryLost\`, then the rest. When nothing at all came for three heartbeats, take the connection for dead, and come back after a
pause that grows and is partly random; [the examples](../examples/react/follow.ts) do.

The service ends a stream with \`StreamEnded\`, whose \`cursor\` is the place to come back to: when it stops, when your token ends, and when you
take events more slowly than they come and too much waits for you (\`STREAM_BUFFER_BYTES\`, \`STREAM_BUFFER_EVENTS\`). A stream that fails ends
with an error instead; what you have not seen comes again after your newest cursor.

You may have \`STREAMS_PER_USER\` streams open on a server, of \`DIFFERENT_STREAMS_PER_USER\` different kinds; equal ones share their work. Beyond that a
new one is refused with \`STREAM_LIMIT\` before it opens.

A stream that begins in the middle of an answer first gets the text so far as a \`MessageDelta\` with \`offset\` 0. Then each piece begins where
the one before ended; one that begins elsewhere shows that a piece was lost, and the whole follows as \`MessageCreated\`.

An \`EventSource\` resumes by itself: each event carries its cursor as the \`id\` of Server-Sent Events, and \`Last-Event-ID\` stands in for \`after\`.

Every event has:

${fieldTable([...Object.values(event.getFields())])}

## Kinds

${filterable.map((kind) => section(kind, constantCase(kind.name), inherited)).join('\n\n')}

## Kinds that come whatever \`types\` says

${always.map((kind) => section(kind, null, inherited)).join('\n\n')}

This page is made from the schema by \`npm run docs\`.
`;
}

function section(kind: GraphQLObjectType, name: string | null, inherited: ReadonlySet<string>): string {
  const own = Object.values(kind.getFields()).filter((field) => !inherited.has(field.name));
  return [
    `### ${kind.name}`,
    `${name === null ? '' : `\`${name}\`. `}${kind.description ?? ''}`,
    ...(own.length === 0 ? [] : [fieldTable(own)]),
  ].join('\n\n');
}

function fieldTable(fields: { name: string; type: unknown; description?: string | null | undefined }[]): string {
  const rows = fields
    .toSorted((one, other) => one.name.localeCompare(other.name))
    .map(
      (field) =>
        `| \`${field.name}\` | \`${String(field.type)}\` | ${(field.description ?? '').replaceAll('\n', ' ')} |`,
    );
  return ['| Field | Type | What it is |', '| --- | --- | --- |', ...rows].join('\n');
}

/** Names by which a subscription can ask for kinds. */
function filterNames(schema: GraphQLSchema): Set<string> {
  const type = schema.getType('EventType');
  return new Set(type !== undefined && 'getValues' in type ? type.getValues().map(({ name }) => name) : []);
}

/** `TaskStarted` as `TASK_STARTED`. */
function constantCase(name: string): string {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
}
