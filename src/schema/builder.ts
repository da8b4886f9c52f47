import SchemaBuilder from '@pothos/core';
import RelayPlugin from '@pothos/plugin-relay';
import { isObjectType } from 'graphql';
import { DateTimeISOResolver, JSONResolver } from 'graphql-scalars';
import type { RateLimitName, RateLimits } from '../adapters/rate-limit.ts';
import type { Principal } from '../auth.ts';
import { badInput } from '../errors.ts';
import type {
  AgentModel,
  ApprovalGrantModel,
  ApprovalModel,
  MemoryDocumentModel,
  MemoryJobModel,
  MessageModel,
  OrchestratorModel,
  PlanModel,
  SessionModel,
  TaskModel,
  UserModel,
} from '../generated/prisma/models.ts';
import type { ModelFor } from '../governor/caller.ts';
import type { Operation, WriteOperation } from '../operation.ts';
import type { ReadingRequest } from '../services/event-feeds.ts';
import type { EventReading } from '../services/event-reading.ts';
import type { MutationOutcome } from '../services/idempotency.ts';
import type { MemoryIndex } from '../services/memory-search.ts';
import { defaultPageSize, maximumPageSize } from '../services/page.ts';
import type { McpServerRow, ToolRow } from '../services/table.ts';
import type { ToolResources } from '../services/tool-resources.ts';

/** What a resolver may use. Everything that reaches data goes through the operation of the calling user. */
export interface Context {
  principal: Principal;
  operation: Operation;
  /** Address of the client, as far as it is known. */
  clientAddress: string | null;
  /** Fires when the client went away or its token ended. */
  signal: AbortSignal;
  /** Begins to read the user's events; the reading must be closed. */
  readEvents(wanted: ReadingRequest): Promise<EventReading>;
  rates: RateLimits;
  /** Counts a use of a costly kind, before anything of it is done. @throws DomainError RATE_LIMITED */
  takeCostly(name: RateLimitName): Promise<void>;
  /** What rules about tools need beside the database. */
  tools: ToolResources;
  /** Where memories are searched beside the database. */
  memory: MemoryIndex;
  modelFor: ModelFor;
  /** Runs a mutation field in a transaction of its own, once per Idempotency-Key. */
  mutate<Outcome extends MutationOutcome>(
    field: { path: string; request: unknown },
    work: (operation: WriteOperation) => Promise<Outcome>,
  ): Promise<Outcome>;
}

export interface SchemaTypes {
  Context: Context;
  DefaultFieldNullability: false;
  DefaultEdgesNullability: false;
  Scalars: {
    ID: { Input: string; Output: string };
    DateTime: { Input: Date; Output: Date };
    JSON: { Input: unknown; Output: unknown };
  };
  Objects: {
    User: UserModel;
    Agent: AgentModel;
    AgentMemorySettings: AgentModel;
    Session: SessionModel;
    Message: MessageModel;
    Task: TaskModel;
    Tool: ToolRow;
    MemoryDocument: MemoryDocumentModel;
    MemoryJob: MemoryJobModel;
    McpServer: McpServerRow;
    Approval: ApprovalModel;
    ApprovalGrant: ApprovalGrantModel;
    Orchestrator: OrchestratorModel;
    Plan: PlanModel;
  };
}

export type Builder = PothosSchemaTypes.SchemaBuilder<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>>;

const globalIdPattern = /^([A-Z]\w*):([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/;

/** A builder without any types yet: each noun adds its own. */
export function createBuilder(): Builder {
  const builder = new SchemaBuilder<SchemaTypes>({
    plugins: [RelayPlugin],
    defaultFieldNullability: false,
    relay: {
      cursorType: 'String',
      clientMutationId: 'omit',
      idFieldOptions: { description: 'Opaque id, unique over everything you own.' },
      nodeTypeOptions: { description: 'Anything that has an id and can be read again by it.' },
      nodeQueryOptions: {
        description: 'Anything of yours that has an id; null when you own nothing of that id.',
        resolve: (_root, { id }, _context, info, resolveNode) => {
          const type = info.schema.getType(id.typename);
          if (!isObjectType(type) || !type.getInterfaces().some(({ name }) => name === 'Node')) {
            throw badInput('id', '`id` is not an id of this API.');
          }
          return resolveNode(id);
        },
        args: { id: { description: 'Id of any noun.' } },
      },
      nodesQueryOptions: false,
      edgesFieldOptions: { nullable: false, description: 'The items of this page, in order.' },
      nodeFieldOptions: { nullable: false, description: 'The item.' },
      cursorFieldOptions: { description: 'Its place in the list, for `after` and `before`.' },
      pageInfoFieldOptions: { description: 'Where this page stands in the list.' },
      pageInfoTypeOptions: { description: 'Where a page stands in its list.' },
      hasNextPageFieldOptions: { description: 'Whether the list goes on behind this page.' },
      hasPreviousPageFieldOptions: { description: 'Whether the list has items before this page.' },
      startCursorFieldOptions: { description: 'Cursor of the first item; null on an empty page.' },
      endCursorFieldOptions: { description: 'Cursor of the last item; null on an empty page.' },
      firstArgOptions: {
        description: `How many items from the start: 0 to ${maximumPageSize}; ${defaultPageSize} when neither \`first\` nor \`last\` is given. Errors: BAD_USER_INPUT.`,
      },
      afterArgOptions: { description: 'Only items behind this cursor. Errors: BAD_CURSOR.' },
      lastArgOptions: {
        description: `How many items from the end: 0 to ${maximumPageSize}. Not together with \`first\`. Errors: BAD_USER_INPUT.`,
      },
      beforeArgOptions: { description: 'Only items before this cursor. Errors: BAD_CURSOR.' },
      defaultConnectionTypeOptions: { description: 'A page of a list, with its items as `edges`.' },
      defaultEdgeTypeOptions: { description: 'An item and its place in the list.' },
      encodeGlobalID: (typename, id) => encodeId(typename, String(id)),
      decodeGlobalID: (id) => decodeAnyId(id, 'id'),
    },
  });
  builder.addScalarType('DateTime', DateTimeISOResolver, {
    description: 'A point in time by RFC 3339, in UTC, such as `2026-11-21T09:30:00.000Z`.',
  });
  builder.addScalarType('JSON', JSONResolver, { description: 'Any JSON value, as it is.' });
  builder.queryType({
    description:
      'Reads. All fields of one query see the same state of the data. Beside the errors that a field names, each may answer ' +
      'BAD_USER_INPUT for what is no id of the right kind, SERVICE_BUSY, and INTERNAL.',
  });
  builder.mutationType({
    description:
      'Changes. Each field is one transaction: it happens whole or not at all, whatever becomes of the fields beside it. ' +
      'A field that fails is null, with an error that names it; the fields beside it keep their answers. ' +
      'With the header `Idempotency-Key` a repeated request answers with the outcome of the first, and a different one with ' +
      'IDEMPOTENCY_KEY_REUSED. Beside the errors that a field names, each may answer BAD_USER_INPUT for what is no id of the ' +
      'right kind, SERVICE_BUSY, and INTERNAL.',
  });
  builder.subscriptionType({ description: 'Live events over Server-Sent Events.' });
  return builder;
}

/** The id that clients see: opaque, and unique over all nouns. */
export function encodeId(typename: string, id: string): string {
  return Buffer.from(`${typename}:${id}`).toString('base64url');
}

/** The row id behind a client's id. @throws DomainError BAD_USER_INPUT when it is no id of that noun */
export function decodeId(globalId: string, typename: string, field: string): string {
  const decoded = decodeAnyId(globalId, field);
  if (decoded.typename !== typename) {
    throw badInput(field, `\`${field}\` is not the id of a ${typename}.`);
  }
  return decoded.id;
}

function decodeAnyId(globalId: string, field: string): { typename: string; id: string } {
  const match = globalIdPattern.exec(Buffer.from(globalId, 'base64url').toString('utf8'));
  if (match?.[1] === undefined || match[2] === undefined) {
    throw badInput(field, `\`${field}\` is not an id of this API.`);
  }
  return { typename: match[1], id: match[2] };
}
