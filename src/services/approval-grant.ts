import { statement } from '../adapters/postgres.ts';
import { notFound } from '../errors.ts';
import type { ApprovalGrantModel, ApprovalModel } from '../generated/prisma/models.ts';
import type { ReadOperation, WriteOperation } from '../operation.ts';
import { childPages, type List, loadChildPage, type Page, type PageArguments } from './page.ts';
import { rowsById, tables } from './table.ts';

const grantList: List<ApprovalGrantModel> = {
  table: tables.approvalGrant,
  order: [{ field: 'id', column: 'id', type: 'uuid' }],
  direction: 'descending',
};

const loadGrants = rowsById<ApprovalGrantModel>(tables.approvalGrant);
const loadSessionGrants = childPages(grantList, 'session_id');

// Asked for twice at once, it is granted once.
const insert = statement(`
  INSERT INTO approval_grants (user_id, kind, session_id, agent_id, tool_id, tool_name)
  SELECT approvals.user_id, approvals.kind, approvals.session_id,
    CASE approvals.kind WHEN 'TOOL' THEN tasks.agent_id END, approvals.tool_id, approvals.tool_name
  FROM approvals LEFT JOIN tasks ON tasks.user_id = $1 AND tasks.id = approvals.task_id
  WHERE approvals.user_id = $1 AND approvals.id = $2
  ON CONFLICT DO NOTHING`);
const ofSession = statement<ApprovalGrantModel & Record<string, unknown>>(
  `SELECT ${tables.approvalGrant.columns} FROM approval_grants WHERE user_id = $1 AND session_id = $2`,
);
const remove = statement<{ sessionId: string }>(
  `DELETE FROM approval_grants WHERE user_id = $1 AND id = $2 RETURNING session_id AS "sessionId"`,
);

/** The caller's grant of that id, or null. */
export function approvalGrantById(operation: ReadOperation, id: string): Promise<ApprovalGrantModel | null> {
  return operation.load(loadGrants, id);
}

/** What holds for the rest of a session, newest first. Pages of many sessions are read in one statement. */
export function listSessionGrants(
  operation: ReadOperation,
  sessionId: string,
  page: PageArguments,
): Promise<Page<ApprovalGrantModel>> {
  return loadChildPage(operation, loadSessionGrants, sessionId, page);
}

/** What a grant lets pass: a tool of an agent, or plans. */
export type Granted = Pick<ApprovalGrantModel, 'kind' | 'agentId' | 'toolId' | 'toolName'>;

/** SQL for everything that holds for the rest of the session $2, as JSON: for a statement that reads more beside it. */
export const grantsOfSessionAsJson = `coalesce((
  SELECT json_agg(json_build_object('kind', kind, 'agentId', agent_id, 'toolId', tool_id, 'toolName', tool_name))
  FROM approval_grants WHERE user_id = $1 AND session_id = $2
), '[]')`;

/** Everything that holds for the rest of a session, for the run that is about to ask. */
export function grantsOfSession(operation: ReadOperation, sessionId: string): Promise<ApprovalGrantModel[]> {
  return operation.query(ofSession, [operation.userId, sessionId]);
}

/** Lets what was approved pass for the rest of its session: that tool of that agent, or plans. */
export async function grantForSession(operation: WriteOperation, approval: Pick<ApprovalModel, 'id'>): Promise<void> {
  await operation.query(insert, [operation.userId, approval.id]);
}

/** Has the user asked again from now on. What runs already is not stopped. @throws DomainError NOT_FOUND */
export async function withdrawApprovalGrant(
  operation: WriteOperation,
  grantId: string,
): Promise<{ withdrawnApprovalGrantId: string; sessionId: string }> {
  const [row] = await operation.query(remove, [operation.userId, grantId]);
  if (row === undefined) {
    throw notFound('approval grant', 'id');
  }
  return { withdrawnApprovalGrantId: grantId, sessionId: row.sessionId };
}
