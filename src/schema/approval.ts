import { ApprovalKind, ApprovalState } from '../generated/prisma/enums.ts';
import { approvalById, listSessionApprovals, listTaskApprovals } from '../services/approval.ts';
import { sessionById } from '../services/session.ts';
import { taskById } from '../services/task.ts';
import { type Builder, encodeId } from './builder.ts';

/** What a user is asked to approve, with its enums, and where it is found below tasks and sessions. */
export function addApproval(builder: Builder) {
  const kind = builder.enumType('ApprovalKind', {
    description: 'What you are asked to approve.',
    values: {
      TOOL: { description: 'One call of a tool by an agent.', value: ApprovalKind.TOOL },
      PLAN: { description: 'A plan of the orchestrator.', value: ApprovalKind.PLAN },
    } as const,
  });
  const state = builder.enumType('ApprovalState', {
    description: 'What became of something you were asked to approve.',
    values: {
      PENDING: { description: 'It waits for you.', value: ApprovalState.PENDING },
      APPROVED: { description: 'You allowed it.', value: ApprovalState.APPROVED },
      REJECTED: { description: 'You declined it.', value: ApprovalState.REJECTED },
      EXPIRED: { description: 'Nobody decided in time, which counts as declined.', value: ApprovalState.EXPIRED },
      CANCELLED: { description: 'What asked for it was cancelled.', value: ApprovalState.CANCELLED },
    } as const,
  });
  const decision = builder.enumType('ApprovalDecision', {
    description: 'How you decide.',
    values: {
      APPROVED: { description: 'Allow it.', value: ApprovalState.APPROVED },
      REJECTED: { description: 'Decline it; the agent is told so, with your note.', value: ApprovalState.REJECTED },
    } as const,
  });
  builder.node('Approval', {
    description: 'Something you are asked to approve, and what came of it. It is decided once.',
    id: { resolve: (approval) => approval.id },
    loadOne: (id, context) => approvalById(context.operation.read, id),
    fields: (t) => ({
      kind: t.expose('kind', { type: kind, description: 'Whether it is about a call of a tool or a plan.' }),
      state: t.expose('state', { type: state, description: 'Where it stands.' }),
      toolName: t.exposeString('toolName', {
        nullable: true,
        description: 'Name of the tool to call; null for a plan.',
      }),
      arguments: t.expose('arguments', {
        type: 'JSON',
        nullable: true,
        description: 'The arguments of the call, or the plan: what exactly is to be approved.',
      }),
      argumentsHash: t.exposeString('argumentsHash', {
        nullable: true,
        description: 'Pass it to `decideApproval` to be sure that you decide about the arguments that you have read.',
      }),
      editedArguments: t.expose('editedArguments', {
        type: 'JSON',
        nullable: true,
        description: 'The arguments that you had it called with instead.',
      }),
      dangerous: t.exposeBoolean('dangerous', {
        description: 'Whether it counts as dangerous: its effect may reach others or not be taken back.',
      }),
      interrupted: t.exposeBoolean('interrupted', {
        description: 'Whether the call began before and was interrupted, so that it may have had its effect already.',
      }),
      note: t.exposeString('note', { nullable: true, description: 'What you wrote when you decided.' }),
      remember: t.exposeBoolean('remember', { description: 'Whether you approved it for the rest of the session.' }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When you were asked.' }),
      expiresAt: t.expose('expiresAt', {
        type: 'DateTime',
        description: 'When it counts as declined unless you decide before.',
      }),
      decidedAt: t.expose('decidedAt', {
        type: 'DateTime',
        nullable: true,
        description: 'When it was decided, expired or cancelled.',
      }),
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that waits for it.',
        resolve: ({ taskId }, _arguments, context) =>
          taskId === null ? null : taskById(context.operation.read, taskId),
      }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to.',
        resolve: ({ sessionId }, _arguments, context) => sessionById(context.operation.read, sessionId),
      }),
      previousId: t.id({
        nullable: true,
        description: 'Id of the expired one that this one asks again.',
        resolve: ({ previousId }) => (previousId === null ? null : encodeId('Approval', previousId)),
      }),
    }),
  });
  const connection = builder.connectionObject(
    { type: 'Approval', name: 'ApprovalConnection' },
    { name: 'ApprovalEdge' },
  );
  builder.objectField('Task', 'approvals', (t) =>
    t.connection(
      {
        type: 'Approval',
        description: 'What you were asked to approve for it, newest first.',
        resolve: (task, page, context) => listTaskApprovals(context.operation.read, task.id, page),
      },
      connection,
    ),
  );
  builder.objectField('Session', 'approvals', (t) =>
    t.connection(
      {
        type: 'Approval',
        description: 'What you were asked to approve in it, newest first.',
        resolve: (session, page, context) => listSessionApprovals(context.operation.read, session.id, page),
      },
      connection,
    ),
  );
  return { kind, state, decision, connection };
}
