import { agentById } from '../services/agent.ts';
import { approvalGrantById, listSessionGrants } from '../services/approval-grant.ts';
import { sessionById } from '../services/session.ts';
import type { addApproval } from './approval.ts';
import type { Builder } from './builder.ts';

/** What a user has approved for the rest of a session. */
export function addApprovalGrant(builder: Builder, enums: { approvalKind: ReturnType<typeof addApproval>['kind'] }) {
  builder.node('ApprovalGrant', {
    description: 'What you approved for the rest of a session: it is done there without asking, until you withdraw it.',
    id: { resolve: (grant) => grant.id },
    loadOne: (id, context) => approvalGrantById(context.operation.read, id),
    fields: (t) => ({
      kind: t.expose('kind', {
        type: enums.approvalKind,
        description: 'Whether it is for calls of a tool or for plans.',
      }),
      toolName: t.exposeString('toolName', {
        nullable: true,
        description: 'Name of the tool, for any arguments; null for plans.',
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When you approved it.' }),
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent that may call the tool; null for plans.',
        resolve: ({ agentId }, _arguments, context) =>
          agentId === null ? null : agentById(context.operation.read, agentId),
      }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session in which it holds.',
        resolve: ({ sessionId }, _arguments, context) => sessionById(context.operation.read, sessionId),
      }),
    }),
  });
  const connection = builder.connectionObject(
    { type: 'ApprovalGrant', name: 'ApprovalGrantConnection' },
    { name: 'ApprovalGrantEdge' },
  );
  builder.objectField('Session', 'approvalGrants', (t) =>
    t.connection(
      {
        type: 'ApprovalGrant',
        description: 'What you approved for the rest of this session, newest first.',
        resolve: (session, page, context) => listSessionGrants(context.operation.read, session.id, page),
      },
      connection,
    ),
  );
}
