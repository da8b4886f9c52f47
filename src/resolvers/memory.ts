import { type Builder, decodeId } from '../schema/builder.ts';
import type { addMemory } from '../schema/memory.ts';
import { listMemoryDocuments } from '../services/memory.ts';
import { ingestDocuments } from '../services/memory-ingest.ts';
import { memoryJobByTask } from '../services/memory-job.ts';
import { pruneMemory, rebuildMemory } from '../services/memory-prune.ts';
import { searchMemory } from '../services/memory-search.ts';
import { type SyncOutcome, syncSource } from '../services/memory-sync.ts';
import { mutate } from './mutation.ts';

type Types = ReturnType<typeof addMemory>;

export function addMemoryFields(builder: Builder, types: Types): void {
  addMemoryQueries(builder, types);
  addMemoryMutations(builder, types);
}

function addMemoryQueries(builder: Builder, types: Types): void {
  const documentFilter = builder.inputType('MemoryDocumentFilter', {
    description: 'Conditions on documents; all that are given must hold.',
    fields: (t) => ({
      source: t.string({ description: 'Documents of this source.' }),
      path: t.string({ description: 'The document at this path, or those below it as a folder.' }),
      kinds: t.field({ type: [types.kind], description: 'Documents of one of these kinds.' }),
    }),
  });
  builder.queryField('memoryDocuments', (t) =>
    t.connection(
      {
        type: 'MemoryDocument',
        description: "Documents of an agent's memory, oldest first; none when you have no such agent.",
        args: {
          agentId: t.arg.id({ required: true, description: 'The agent that remembers them.' }),
          filter: t.arg({ type: documentFilter, description: 'Conditions on the documents.' }),
        },
        resolve: (_root, { agentId, filter, ...page }, context) =>
          listMemoryDocuments(context.operation.read, decodeId(agentId, 'Agent', 'agentId'), page, filter ?? {}),
      },
      types.connection,
    ),
  );
  const searchFilter = builder.inputType('MemorySearchFilter', {
    description: 'Where to search; all conditions that are given must hold.',
    fields: (t) => ({
      source: t.string({ description: 'In documents of this source.' }),
      path: t.string({ description: 'In the document at this path, or in those below it as a folder.' }),
      kinds: t.field({ type: [types.kind], description: 'In documents of one of these kinds.' }),
      since: t.field({ type: 'DateTime', description: 'In documents that changed then or later.' }),
      until: t.field({ type: 'DateTime', description: 'In documents that last changed before.' }),
    }),
  });
  builder.queryField('searchMemory', (t) =>
    t.field({
      type: types.result,
      description:
        "Searches an agent's memory by meaning and by words at once. Without the index, or the model, words alone answer " +
        'and `degraded` says so. Errors: NOT_FOUND, BAD_USER_INPUT, RATE_LIMITED.',
      args: {
        agentId: t.arg.id({ required: true, description: 'The agent whose memory is searched.' }),
        query: t.arg.string({
          required: true,
          description: 'What to look for: a question or words, 1 to 4,000 characters.',
        }),
        first: t.arg.int({ description: 'How many matches: 1 to 50; default 10.' }),
        filter: t.arg({ type: searchFilter, description: 'Where to search.' }),
      },
      resolve: async (_root, { agentId, ...input }, context) => {
        await context.takeCostly('SEARCH');
        return await searchMemory(
          context.memory,
          context.modelFor({ userId: context.operation.userId, priority: 'INTERACTIVE' }),
          context.operation,
          { ...input, agentId: decodeId(agentId, 'Agent', 'agentId') },
          context.signal,
        );
      },
    }),
  );
}

function addMemoryMutations(builder: Builder, types: Types): void {
  const changed = builder.objectRef<{ taskId: string }>('MemoryJobPayload').implement({
    description: 'Work on a memory that goes on in the background.',
    fields: (t) => ({
      job: t.field({
        type: types.job,
        nullable: true,
        description: 'The job with its task; null when its agent was deleted since.',
        resolve: ({ taskId }, _arguments, context) => memoryJobByTask(context.operation.read, taskId),
      }),
    }),
  });
  const newDocument = builder.inputType('NewMemoryDocument', {
    description: 'A document to remember.',
    fields: (t) => ({
      path: t.string({
        required: true,
        description:
          'Its place within the source, such as `src/app.ts`: 1 to 1,000 characters. It takes the place of a document there.',
      }),
      content: t.string({ required: true, description: 'Its whole text.' }),
      kind: t.field({ type: types.kind, description: "What it is; by default its path's extension says." }),
    }),
  });
  const ingestInput = builder.inputType('IngestDocumentsInput', {
    description: 'Documents for the memory of an agent.',
    fields: (t) => ({
      agentId: t.id({ required: true, description: 'The agent that shall remember them.' }),
      source: t.string({ required: true, description: 'A name for where they come from: 1 to 100 characters.' }),
      documents: t.field({
        type: [newDocument],
        required: true,
        description: '1 to 500 documents. The body of the request limits their size: send more in further calls.',
      }),
    }),
  });
  const manifestEntry = builder.inputType('ManifestEntry', {
    description: 'A document as it is at its source.',
    fields: (t) => ({
      path: t.string({ required: true, description: 'Its place within the source.' }),
      hash: t.string({ required: true, description: 'SHA-256 of its UTF-8 bytes, in lower-case hexadecimal digits.' }),
    }),
  });
  const syncInput = builder.inputType('SyncSourceInput', {
    description:
      'A page of the manifest of a source: all of its documents whose paths lie behind `startAfter`, up to and with `through`, ' +
      'by the order of their UTF-8 bytes.',
    fields: (t) => ({
      agentId: t.id({ required: true, description: 'The agent that shall remember the source.' }),
      source: t.string({ required: true, description: 'The name of the source: 1 to 100 characters.' }),
      entries: t.field({ type: [manifestEntry], required: true, description: 'At most 2,000 documents.' }),
      startAfter: t.string({ description: 'The last path of the page before; leave it out for the first page.' }),
      through: t.string({ description: 'The last path of this page; leave it out for the last page.' }),
    }),
  });
  const pruneInput = builder.inputType('PruneMemoryInput', {
    description: 'What to take out of a memory: at least one condition; a source alone means all of it.',
    fields: (t) => ({
      agentId: t.id({ required: true, description: 'The agent that shall forget.' }),
      olderThanDays: t.int({ description: 'Documents that have not changed for so many days.' }),
      maxBytes: t.float({
        description: 'The documents that changed longest ago, until the rest has at most as many bytes.',
      }),
      source: t.string({ description: 'Only documents of this source.' }),
    }),
  });
  const synced = builder.objectRef<SyncOutcome>('SyncSourcePayload').implement({
    description: 'What a page of a manifest came to.',
    fields: (t) => ({
      wanted: t.stringList({
        description: 'Paths whose content is new or has changed: send it by `ingestDocuments` under the same source.',
        resolve: ({ wanted }) => JSON.parse(wanted) as string[],
      }),
      removed: t.int({
        description: 'Documents that had vanished and were taken out.',
        resolve: ({ removed }) => Number(removed),
      }),
      again: t.boolean({
        description: 'More of this page have vanished than one call takes out: send the same page again.',
        resolve: ({ again }) => again === 'true',
      }),
      job: t.field({
        type: types.job,
        nullable: true,
        description: 'The job that brings the index in line; null when its agent was deleted since.',
        resolve: ({ taskId }, _arguments, context) => memoryJobByTask(context.operation.read, taskId),
      }),
    }),
  });

  builder.mutationField('ingestDocuments', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Gives documents to the memory of an agent. They are found by words at once, and by meaning when the job is done; ' +
        'what has not changed costs nothing. ' +
        'Errors: NOT_FOUND, BAD_USER_INPUT, QUOTA_EXCEEDED, AGENT_QUEUE_FULL, RATE_LIMITED.',
      args: { input: t.arg({ type: ingestInput, required: true, description: 'The documents.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, input, (operation) =>
          ingestDocuments(operation, { ...input, agentId: decodeId(input.agentId, 'Agent', 'input.agentId') }),
        ),
    }),
  );
  builder.mutationField('syncSource', (t) =>
    t.field({
      type: synced,
      nullable: true,
      description:
        'Compares a source with what an agent remembers of it: tells which contents to send and takes out what has vanished. ' +
        'Errors: NOT_FOUND, BAD_USER_INPUT, AGENT_QUEUE_FULL, RATE_LIMITED.',
      args: { input: t.arg({ type: syncInput, required: true, description: 'A page of the manifest.' }) },
      resolve: (_root, { input: { startAfter, ...input } }, context, info) =>
        mutate(context, info, { ...input, startAfter }, (operation) =>
          syncSource(operation, {
            ...input,
            after: startAfter,
            agentId: decodeId(input.agentId, 'Agent', 'input.agentId'),
          }),
        ),
    }),
  );
  builder.mutationField('pruneMemory', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Takes documents out of a memory, by age, size or source. Errors: NOT_FOUND, BAD_USER_INPUT, AGENT_QUEUE_FULL, RATE_LIMITED.',
      args: { input: t.arg({ type: pruneInput, required: true, description: 'What to take out.' }) },
      resolve: (_root, { input }, context, info) =>
        mutate(context, info, input, (operation) =>
          pruneMemory(operation, { ...input, agentId: decodeId(input.agentId, 'Agent', 'input.agentId') }),
        ),
    }),
  );
  builder.mutationField('rebuildMemory', (t) =>
    t.field({
      type: changed,
      nullable: true,
      description:
        'Makes the index of a memory anew from its text. Until that is done, words alone are searched. ' +
        'Errors: NOT_FOUND, AGENT_QUEUE_FULL, RATE_LIMITED.',
      args: { agentId: t.arg.id({ required: true, description: 'The agent whose memory it is.' }) },
      resolve: (_root, { agentId }, context, info) =>
        mutate(context, info, { agentId }, (operation) =>
          rebuildMemory(operation, decodeId(agentId, 'Agent', 'agentId')),
        ),
    }),
  );
}
