import { MemoryJobKind, MemoryKind } from '../generated/prisma/enums.ts';
import type { MemoryModel } from '../generated/prisma/models.ts';
import { agentById } from '../services/agent.ts';
import { type Citation, citationsOfTask } from '../services/citation.ts';
import { countPendingChunks, listMemorySources, memoryByAgent, memoryDocumentById } from '../services/memory.ts';
import { memoryJobByTask } from '../services/memory-job.ts';
import type { DegradedReason, MemoryMatch, MemorySearch } from '../services/memory-search.ts';
import { taskById } from '../services/task.ts';
import { type Builder, encodeId } from './builder.ts';

function addKind(builder: Builder) {
  return builder.enumType('MemoryKind', {
    description: 'What a document is: it decides how the document is cut into chunks.',
    values: {
      TEXT: { description: 'Text, cut at paragraphs.', value: MemoryKind.TEXT },
      MARKDOWN: { description: 'Markdown, cut at headings and around code blocks.', value: MemoryKind.MARKDOWN },
      CODE: { description: 'Source code, cut at top-level declarations.', value: MemoryKind.CODE },
      NOTE: { description: 'Something that an agent chose to remember.', value: MemoryKind.NOTE },
      CONVERSATION: { description: 'A message and its answer.', value: MemoryKind.CONVERSATION },
    } as const,
  });
}

/** Documents, jobs and search of memories, and where they are found below agents and tasks. */
export function addMemory(builder: Builder) {
  const kind = addKind(builder);
  const jobKind = builder.enumType('MemoryJobKind', {
    description: 'What is done to a memory in the background.',
    values: {
      INGEST: { description: 'The index is brought in line with what was written.', value: MemoryJobKind.INGEST },
      PRUNE: { description: 'Documents are taken out.', value: MemoryJobKind.PRUNE },
      REBUILD: { description: 'The index is made anew from the text.', value: MemoryJobKind.REBUILD },
    } as const,
  });
  const document = builder.node('MemoryDocument', {
    description: "A document of an agent's memory.",
    id: { resolve: (item) => item.id },
    loadOne: (id, context) => memoryDocumentById(context.operation.read, id),
    fields: (t) => ({
      source: t.exposeString('source', { description: 'Where it came from, by the name that was given.' }),
      path: t.exposeString('path', { description: 'Its place within the source.' }),
      kind: t.expose('kind', { type: kind, description: 'What it is, which decides how it is cut into chunks.' }),
      hash: t.exposeString('contentHash', { description: 'SHA-256 of its UTF-8 bytes, in hexadecimal digits.' }),
      bytes: t.float({ description: 'Size of its text in UTF-8, in bytes.', resolve: (item) => Number(item.bytes) }),
      chunks: t.exposeInt('chunks', { description: 'How many chunks it was cut into.' }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was first stored.' }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its text last changed.' }),
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent that remembers it.',
        resolve: (item, _arguments, context) => agentById(context.operation.read, item.memoryId),
      }),
    }),
  });
  const connection = builder.connectionObject(
    { type: document, name: 'MemoryDocumentConnection' },
    { name: 'MemoryDocumentEdge' },
  );

  const job = builder.objectType('MemoryJob', {
    description: 'What a task on a memory was given and has done so far. Small writes in a row share one job.',
    fields: (t) => ({
      kind: t.expose('kind', { type: jobKind, description: 'What the job does to the memory.' }),
      added: t.exposeInt('added', { description: 'Documents that are new.' }),
      changed: t.exposeInt('changed', { description: 'Documents whose text changed.' }),
      unchanged: t.exposeInt('unchanged', { description: 'Documents that were there already, just the same.' }),
      removed: t.exposeInt('removed', { description: 'Documents that were taken out.' }),
      indexed: t.float({
        description: 'Chunks that the index was given.',
        resolve: (item) => Number(item.indexed),
      }),
      unindexed: t.float({
        description: 'Chunks that were taken out of the index.',
        resolve: (item) => Number(item.unindexed),
      }),
      embedded: t.float({
        description: 'Texts that the model turned into vectors.',
        resolve: (item) => Number(item.embedded),
      }),
      reused: t.float({
        description: 'Chunks whose vector was known from the same text before.',
        resolve: (item) => Number(item.reused),
      }),
      pending: t.float({
        description: 'Chunks of the memory that the index does not know yet, or no more. They are found by words.',
        resolve: (item, _arguments, context) => countPendingChunks(context.operation.read, item.memoryId),
      }),
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that does it: its state, progress and cancellation.',
        resolve: (item, _arguments, context) => taskById(context.operation.read, item.taskId),
      }),
    }),
  });
  builder.objectField('Task', 'memoryJob', (t) =>
    t.field({
      type: job,
      nullable: true,
      description: 'What it does to a memory; null for tasks that work on none.',
      resolve: (task, _arguments, context) => memoryJobByTask(context.operation.read, task.id),
    }),
  );
  addMemoryState(builder);
  addCitations(builder);
  return { kind, connection, job, ...addSearch(builder, kind) };
}

function addCitations(builder: Builder): void {
  const citation = builder.objectRef<Citation>('Citation').implement({
    description: 'A piece of memory that an answer was drawn from: the place as it was then.',
    fields: (t) => ({
      position: t.exposeInt('position', { description: 'Its number, from 1, by which the answer may name it.' }),
      source: t.exposeString('source', { description: 'The source of its document.' }),
      path: t.exposeString('path', { description: 'The path of its document.' }),
      heading: t.exposeString('heading', { description: 'Headings above it; empty where there were none.' }),
      startLine: t.exposeInt('startLine', { description: 'Its first line in the document, from 1.' }),
      endLine: t.exposeInt('endLine', { description: 'Its last line.' }),
      score: t.exposeFloat('score', { description: 'How well it fitted, beside the others of the same search.' }),
      content: t.exposeString('content', {
        nullable: true,
        description: 'Its text; null when the document has changed or is gone.',
      }),
      document: t.field({
        type: 'MemoryDocument',
        nullable: true,
        description: 'Its document; null when that is gone.',
        resolve: ({ documentId }, _arguments, context) =>
          documentId === null ? null : memoryDocumentById(context.operation.read, documentId),
      }),
    }),
  });
  builder.objectField('Message', 'citations', (t) =>
    t.field({
      type: [citation],
      description:
        'What of its memory the agent was given for this answer, by position; at most 40. Empty for an answer of the team: ' +
        'see `citations` of the tasks of its plan.',
      resolve: (message, _arguments, context) =>
        message.taskId === null ? [] : citationsOfTask(context.operation.read, message.taskId),
    }),
  );
  builder.objectField('Task', 'citations', (t) =>
    t.field({
      type: [citation],
      description: 'What of its memory the agent was given for it, by position; at most 40.',
      resolve: (task, _arguments, context) => citationsOfTask(context.operation.read, task.id),
    }),
  );
}

function addMemoryState(builder: Builder): void {
  const source = builder
    .objectRef<{ source: string; documents: number; bytes: number; updatedAt: Date }>('MemorySource')
    .implement({
      description: 'A source that a memory was filled from.',
      fields: (t) => ({
        source: t.exposeString('source', { description: 'The name that was given to it.' }),
        documents: t.exposeInt('documents', { description: 'How many documents it has.' }),
        bytes: t.exposeFloat('bytes', { description: 'Size of their text in UTF-8, in bytes.' }),
        updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When one of them last changed.' }),
      }),
    });
  const state = builder.objectRef<MemoryModel>('MemoryState').implement({
    description: 'What an agent remembers as a whole.',
    fields: (t) => ({
      documents: t.exposeInt('documents', { description: 'How many documents it holds.' }),
      chunks: t.float({
        description: 'How many chunks they were cut into.',
        resolve: (memory) => Number(memory.chunks),
      }),
      bytes: t.float({
        description: 'Size of their text in UTF-8, in bytes.',
        resolve: (memory) => Number(memory.bytes),
      }),
      pending: t.float({
        description: 'Chunks that the index does not know yet, or no more. They are found by words.',
        resolve: (memory, _arguments, context) => countPendingChunks(context.operation.read, memory.id),
      }),
      indexed: t.boolean({
        description: 'Whether there is an index to search in by meaning; without one, words alone are searched.',
        resolve: (memory) => memory.collectionModel !== null,
      }),
      usedAt: t.expose('usedAt', {
        type: 'DateTime',
        description: 'When it was last searched or written to, to the hour.',
      }),
      sources: t.field({
        type: [source],
        description: 'The sources that it was filled from, by name; at most 1,000.',
        resolve: (memory, _arguments, context) => listMemorySources(context.operation.read, memory.id),
      }),
    }),
  });
  builder.objectField('Agent', 'memoryState', (t) =>
    t.field({
      type: state,
      nullable: true,
      description: 'What it remembers; null when it was never given anything.',
      resolve: (agent, _arguments, context) => memoryByAgent(context.operation.read, agent.id),
    }),
  );
}

function addSearch(builder: Builder, kind: ReturnType<typeof addKind>) {
  const reason = builder.enumType('MemoryDegradedReason', {
    description: 'Why a search was answered by words alone.',
    values: {
      INDEX_UNAVAILABLE: { description: 'The index is away or was not set up.' },
      MODEL_UNAVAILABLE: { description: 'The model gave no vector for the question in time.' },
      QUOTA_EXCEEDED: { description: 'Your tokens for today are used up: quota TOKENS_PER_DAY.' },
      REBUILDING: { description: 'The index is being made; it was dropped, lost, or made for another model.' },
    } as const satisfies Record<DegradedReason, { description: string }>,
  });
  const match = builder.objectRef<MemoryMatch>('MemoryMatch').implement({
    description: 'A chunk that was found, with the place to cite.',
    fields: (t) => ({
      content: t.exposeString('content', { description: 'Its text.' }),
      heading: t.exposeString('heading', {
        description: 'Headings above it, outermost first; empty where there are none.',
      }),
      source: t.exposeString('source', { description: 'The source of its document.' }),
      path: t.exposeString('path', { description: 'The path of its document.' }),
      kind: t.expose('kind', { type: kind, description: 'What its document is.' }),
      startLine: t.exposeInt('startLine', { description: 'Its first line in the document, from 1.' }),
      endLine: t.exposeInt('endLine', { description: 'Its last line.' }),
      score: t.exposeFloat('score', {
        description: 'Orders the matches of this answer: the sum of 1 / (60 + place) over both searches.',
      }),
      similarity: t.exposeFloat('similarity', {
        nullable: true,
        description: 'Cosine similarity to the question, from -1 to 1; null when only its words were found.',
      }),
      updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its document last changed.' }),
      documentId: t.id({
        description: 'Id that its document had when it was found.',
        resolve: (item) => encodeId('MemoryDocument', item.documentId),
      }),
      document: t.field({
        type: 'MemoryDocument',
        nullable: true,
        description: 'Its document; null when it was taken out since.',
        resolve: (item, _arguments, context) => memoryDocumentById(context.operation.read, item.documentId),
      }),
    }),
  });
  const result = builder.objectRef<MemorySearch>('MemorySearch').implement({
    description: 'What a search of a memory found.',
    fields: (t) => ({
      matches: t.expose('matches', { type: [match], description: 'What was found, best first.' }),
      degraded: t.boolean({
        description: 'Whether words alone were searched, because meaning could not be.',
        resolve: ({ degraded }) => degraded !== null,
      }),
      degradedReason: t.field({
        type: reason,
        nullable: true,
        description: 'Why words alone were searched; null when both searches answered.',
        resolve: ({ degraded }) => degraded,
      }),
    }),
  });
  return { result };
}
