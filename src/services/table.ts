import { statement } from '../adapters/postgres.ts';
import { columnsOf } from '../adapters/prisma.ts';
import { Prisma } from '../generated/prisma/client.ts';
import type {
  AgentModel,
  ApprovalGrantModel,
  ApprovalModel,
  EventModel,
  McpServerModel,
  MemoryDocumentModel,
  MemoryJobModel,
  MemoryModel,
  MessageModel,
  OrchestratorModel,
  PlanModel,
  SessionModel,
  TaskModel,
  ToolModel,
  UserModel,
} from '../generated/prisma/models.ts';
import type { BatchLoad } from '../operation.ts';

/** How rows of one noun are selected: the table, and its columns under the names of the data model. */
export interface Table<Row> {
  readonly name: string;
  readonly columns: string;
  /** Only a type: what a row looks like. */
  readonly row?: Row;
}

function table<Row>(name: string, fields: { [Field in keyof Row & string]: Field }): Table<Row> {
  return { name, columns: columnsOf(fields) };
}

/** Rows of tools and their servers as they are listed: what they keep secret is read by those who need it alone. */
export type ToolRow = Omit<ToolModel, SealedFields>;
export type McpServerRow = Omit<McpServerModel, SealedFields>;
type SealedFields = 'secrets' | 'secretsKeyId';

function withoutSealed<Fields extends Record<SealedFields, string>>(fields: Fields): Omit<Fields, SealedFields> {
  const { secrets: _secrets, secretsKeyId: _secretsKeyId, ...rest } = fields;
  return rest;
}

export const tables = {
  user: table<UserModel>('users', Prisma.UserScalarFieldEnum),
  agent: table<AgentModel>('agents', Prisma.AgentScalarFieldEnum),
  orchestrator: table<OrchestratorModel>('orchestrators', Prisma.OrchestratorScalarFieldEnum),
  session: table<SessionModel>('sessions', Prisma.SessionScalarFieldEnum),
  message: table<MessageModel>('messages', Prisma.MessageScalarFieldEnum),
  plan: table<PlanModel>('plans', Prisma.PlanScalarFieldEnum),
  task: table<TaskModel>('tasks', Prisma.TaskScalarFieldEnum),
  approval: table<ApprovalModel>('approvals', Prisma.ApprovalScalarFieldEnum),
  approvalGrant: table<ApprovalGrantModel>('approval_grants', Prisma.ApprovalGrantScalarFieldEnum),
  tool: table<ToolRow>('tools', withoutSealed(Prisma.ToolScalarFieldEnum)),
  mcpServer: table<McpServerRow>('mcp_servers', withoutSealed(Prisma.McpServerScalarFieldEnum)),
  memory: table<MemoryModel>('memories', Prisma.MemoryScalarFieldEnum),
  memoryDocument: table<MemoryDocumentModel>('memory_documents', Prisma.MemoryDocumentScalarFieldEnum),
  memoryJob: table<MemoryJobModel>('memory_jobs', Prisma.MemoryJobScalarFieldEnum),
  event: table<EventModel>('events', Prisma.EventScalarFieldEnum),
} as const;

/** Loads rows of the calling user by id, in one statement; null where the caller owns no such row. */
export function rowsById<Row extends { id: string }>(source: Table<Row>): BatchLoad<string, Row | null> {
  const select = (condition: string) =>
    statement<Row & Record<string, unknown>>(
      `SELECT ${source.columns} FROM ${source.name} WHERE user_id = $1 AND id ${condition}`,
    );
  // Most often it is one row: Postgres keeps a plan for that, while it makes one for each list, which costs more than to run it.
  const one = select('= $2');
  const many = select('= ANY ($2::uuid[])');
  return async (operation, ids) => {
    const [first] = ids;
    const rows = await (ids.length === 1
      ? operation.query(one, [operation.userId, first])
      : operation.query(many, [operation.userId, ids]));
    const byId = new Map(rows.map((row) => [row.id, row]));
    return ids.map((id) => byId.get(id) ?? null);
  };
}
