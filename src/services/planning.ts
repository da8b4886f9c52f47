import { createHash } from 'node:crypto';
import { v7 as uuidv7 } from 'uuid';
import { statement } from '../adapters/postgres.ts';
import { DomainError } from '../errors.ts';
import type { ApprovalState, PlanState } from '../generated/prisma/enums.ts';
import type { OrchestratorModel, PlanModel } from '../generated/prisma/models.ts';
import { type ReadOperation, type WriteOperation, writeTogether } from '../operation.ts';
import { checkRoom, enqueueGraph, lockForGraph } from '../queue/graph.ts';
import { type BegunTask, type TaskFacts, tellStarts } from '../queue/successor.ts';
import { type Claim, endAttempt, holdAttempt, StaleAttemptError } from '../queue/task.ts';
import { type ModelOutput, recordModelUse } from './agent-run.ts';
import { grantsOfSession } from './approval-grant.ts';
import { isDangerousPlan, needsApproval } from './approval-policy.ts';
import { completeAttempt, waitForApprovals } from './attempt.ts';
import { storeAnswer } from './message.ts';
import { orchestratorById } from './orchestrator.ts';
import { type PlanGraph, planById, taskGraph } from './plan.ts';
import type { PlanDraft, PlanNode, TeamMember } from './plan-draft.ts';
import { endPlan } from './plan-state.ts';
import { checkQuota } from './quota.ts';

/** Everything that making a plan needs to know, read in one transaction. */
export interface Planning {
  task: TaskFacts;
  plan: PlanModel;
  orchestrator: OrchestratorModel;
  team: PlanningMember[];
  /** What the user was asked about the plan as it stands; null when nothing. */
  approval: { state: ApprovalState; note: string | null } | null;
}

export interface PlanningMember extends TeamMember {
  updatedAt: Date;
  /** It has a tool whose effect can't be taken back, or reaches others. */
  isDangerous: boolean;
}

/** Where a draft came from, and what is to be remembered of it. */
export interface DraftSource {
  /** What the planner's model cost; null when it was not asked, or gave nothing. */
  use: Omit<ModelOutput, 'content'> | null;
  /** Key under which the plan is to be kept; null when it is not. */
  cacheKey: string | null;
}

export interface PlanningSettings {
  /** How long a cached plan is used, in milliseconds. */
  cacheLife: number;
  /** How long the user has to approve a plan, in milliseconds. */
  approvalLife: number;
}

const findTeam = statement<PlanningMember & Record<string, unknown>>(`
  SELECT id, name, description, updated_at AS "updatedAt", EXISTS (
    SELECT FROM agent_tools JOIN tools ON tools.user_id = agent_tools.user_id AND tools.id = agent_tools.tool_id
    WHERE agent_tools.user_id = agents.user_id AND agent_tools.agent_id = agents.id AND tools.dangerous
  ) AS "isDangerous"
  FROM agents WHERE user_id = $1 ORDER BY id`);
// A decision holds for the plan that was shown, whichever task of the plan asked; other questions are this task's own.
const findApproval = statement<{ state: ApprovalState; note: string | null }>(`
  SELECT approvals.state, approvals.note FROM approvals
  JOIN plans ON plans.user_id = approvals.user_id AND plans.id = approvals.plan_id
  WHERE approvals.user_id = $1 AND approvals.plan_id = $2 AND approvals.arguments -> 'tasks' = plans.graph -> 'tasks'
    AND (approvals.state = 'APPROVED' OR approvals.task_id = $3)
  ORDER BY (approvals.state = 'APPROVED') DESC, approvals.id DESC LIMIT 1`);
const findCached = statement<{ tasks: PlanNode[] }>(
  `SELECT tasks FROM plan_cache WHERE user_id = $1 AND key = $2 AND expires_at > now()`,
);
const keepInCache = statement(`
  WITH forgotten AS (DELETE FROM plan_cache WHERE user_id = $1 AND key <> $2 AND expires_at <= now())
  INSERT INTO plan_cache (user_id, key, tasks, expires_at)
  VALUES ($1, $2, $3, now() + make_interval(secs => $4::float8 / 1000))
  ON CONFLICT (user_id, key) DO UPDATE SET tasks = excluded.tasks, expires_at = excluded.expires_at`);
const letPlanGoOn = statement(`
  UPDATE plans SET state = $3::plan_state, started_at = CASE WHEN $3 = 'RUNNING'::plan_state THEN clock_timestamp() ELSE started_at END,
    graph = coalesce($4, graph), fallback_reason = coalesce($5, fallback_reason),
    fallback_message = coalesce($6, fallback_message), updated_at = clock_timestamp()
  WHERE user_id = $1 AND id = $2`);

/** Reads what the run of a planning task needs. @throws StaleAttemptError when the plan or its orchestrator is gone */
export async function loadPlanning(operation: ReadOperation, task: TaskFacts): Promise<Planning> {
  if (task.planId === null || task.laneId === null) {
    throw new StaleAttemptError();
  }
  // An orchestrator's lane has its id.
  const [plan, orchestrator, team, [approval = null]] = await Promise.all([
    planById(operation, task.planId),
    orchestratorById(operation, task.laneId),
    operation.query(findTeam, [operation.userId]),
    operation.query(findApproval, [operation.userId, task.planId, task.id]),
  ]);
  if (plan === null || orchestrator === null) {
    throw new StaleAttemptError();
  }
  return { task, plan, orchestrator, team, approval };
}

/** Tells that a plan is being made. @throws StaleAttemptError */
export async function announcePlanning(operation: WriteOperation, claim: Claim, { plan }: Planning): Promise<void> {
  await holdAttempt(operation, claim);
  operation.emit({ type: 'planning_started', sessionId: plan.sessionId, planId: plan.id, taskId: claim.taskId });
}

/**
 * The key of a plan in the cache: a hash of all that its making depends on, so that any change of the team or of the
 * orchestrator leads past what is kept. Plans of other users are out of reach whatever the key.
 */
export function planCacheKey({ plan, orchestrator, team }: Planning): string {
  const told = [
    plan.request,
    [orchestrator.instructions, orchestrator.model, orchestrator.maxPlanTasks],
    team.map(({ id, name, description, updatedAt }) => [id, name, description, updatedAt]),
  ];
  return createHash('sha256').update(JSON.stringify(told)).digest('base64url');
}

/** The plan that was made under this key not too long ago, or null. */
export async function findCachedPlan(operation: ReadOperation, key: string): Promise<PlanNode[] | null> {
  const [cached] = await operation.query(findCached, [operation.userId, key]);
  return cached?.tasks ?? null;
}

/**
 * Stores a plan that was just made, in one commit with what follows from it: the question to the user where the policy
 * wants one, else its tasks.
 * @throws StaleAttemptError
 * @throws DomainError AGENT_QUEUE_FULL, QUOTA_EXCEEDED, NOT_FOUND when an agent was deleted meanwhile
 */
export async function settleDraft(
  operation: WriteOperation,
  claim: Claim,
  planning: Planning,
  draft: PlanDraft,
  source: DraftSource,
  settings: PlanningSettings,
): Promise<void> {
  const { plan } = planning;
  const graph: PlanGraph = { tasks: draft.tasks, asks: await asksFirst(operation, planning, draft.tasks) };
  const { reason = null, message = null } = draft.fallback ?? {};
  const stored = { ...planning, plan: { ...plan, fallbackReason: reason } };
  await proceed(operation, claim, stored, graph, settings, (write, state) =>
    writeTogether(
      write,
      (each) => each.query(letPlanGoOn, [each.userId, plan.id, state, JSON.stringify(graph), reason, message]),
      async (each) => source.use !== null && recordModelUse(each, claim.taskId, source.use),
      async (each) => {
        if (source.cacheKey !== null) {
          const { userId } = each;
          await each.query(keepInCache, [userId, source.cacheKey, JSON.stringify(draft.tasks), settings.cacheLife]);
        }
      },
    ),
  );
}

/**
 * Goes on with a plan that is stored already: as its user has decided, or by asking where nothing was asked yet.
 * @throws StaleAttemptError
 * @throws DomainError AGENT_QUEUE_FULL, QUOTA_EXCEEDED, NOT_FOUND when an agent was deleted meanwhile
 */
export async function continuePlan(
  operation: WriteOperation,
  claim: Claim,
  planning: Planning,
  graph: PlanGraph,
  settings: PlanningSettings,
): Promise<void> {
  const { plan, approval } = planning;
  switch (approval?.state) {
    case 'REJECTED':
      return declinePlan(operation, claim, plan, 'REJECTED', approval.note);
    case 'EXPIRED':
    case 'CANCELLED':
      return declinePlan(operation, claim, plan, 'EXPIRED', null);
    case 'PENDING':
      await endAttempt(operation, claim, { state: 'WAITING' });
      return;
    case 'APPROVED':
      return proceed(operation, claim, planning, { ...graph, asks: false }, settings);
    default:
      return proceed(operation, claim, planning, graph, settings);
  }
}

/** Asks or starts. @param store writes the plan's new state, behind the locks, and waits for nothing before it has sent it */
async function proceed(
  operation: WriteOperation,
  claim: Claim,
  planning: Planning,
  graph: PlanGraph,
  settings: PlanningSettings,
  store: (operation: WriteOperation, state: PlanState) => Promise<unknown> = (write, state) =>
    write.query(letPlanGoOn, [write.userId, planning.plan.id, state, null, null, null]),
): Promise<void> {
  const { plan, orchestrator, task } = planning;
  const { sessionId, fallbackReason } = plan;
  if (graph.asks) {
    await waitForApprovals(operation, claim, [
      {
        kind: 'PLAN',
        sessionId,
        taskId: task.id,
        planId: plan.id,
        arguments: { tasks: graph.tasks },
        dangerous: isDangerousPlan(dangersOf(planning, graph.tasks)),
        expiresIn: settings.approvalLife,
      },
    ]);
    await store(operation, 'WAITING');
    return;
  }
  const lanes = Map.groupBy(graph.tasks, (node) => node.agentId);
  const wanted = new Map([...lanes].map(([lane, nodes]) => [lane, nodes.length]));
  const ids = new Map(graph.tasks.map((node) => [node.key, uuidv7()]));
  const tasks = taskGraph(plan, task, orchestrator.id, { nodes: graph.tasks, ids, done: new Map() });
  let begun: readonly BegunTask[] = [];
  // One trip: what turns out to be forbidden is rolled back with all that was sent behind it.
  await writeTogether(
    operation,
    (write) => lockForGraph(write, [orchestrator.id, ...lanes.keys()], task.id),
    // The composing task takes the place of this one, so that a plan is not lost to a full lane of its orchestrator.
    async (write) => {
      if ((await checkRoom(write, wanted)).length > 0) {
        throw new DomainError('NOT_FOUND', 'An agent of the plan was deleted.');
      }
    },
    (write) =>
      completeAttempt(write, claim, (each) =>
        writeTogether(
          each,
          async (inner) => {
            begun = await enqueueGraph(inner, tasks, claim.successor);
          },
          (inner) => store(inner, 'RUNNING'),
          async (inner) => inner.emit({ type: 'task_plan_created', sessionId, planId: plan.id, fallbackReason }),
          (inner) => checkQuota(inner, 'CONCURRENT_TASKS'),
        ),
      ),
  );
  tellStarts(operation, begun);
}

async function declinePlan(
  operation: WriteOperation,
  claim: Claim,
  plan: PlanModel,
  state: 'REJECTED' | 'EXPIRED',
  note: string | null,
): Promise<void> {
  const { sessionId } = plan;
  const reason = state === 'REJECTED' ? 'you rejected it' : 'nobody approved it in time';
  const content = `The plan was not run, because ${reason}.${note === null ? '' : `\n\nYour note: ${note}`}`;
  await completeAttempt(operation, claim, (write, { answerId }) =>
    writeTogether(
      write,
      (each) => {
        const from = { role: 'ORCHESTRATOR', agentId: null, planId: plan.id } as const;
        return storeAnswer(each, { id: answerId, sessionId, taskId: claim.taskId, content, ...from });
      },
      (each) => endPlan(each, plan, state),
    ),
  );
}

async function asksFirst(operation: ReadOperation, planning: Planning, tasks: readonly PlanNode[]): Promise<boolean> {
  const { plan, orchestrator } = planning;
  const policy = orchestrator.planApprovalPolicy;
  const question = { kind: 'PLAN', policy, ...dangersOf(planning, tasks), granted: false } as const;
  // Most plans need nobody's approval: then nobody need look for what was granted.
  if (!needsApproval(question)) {
    return false;
  }
  const grants = await grantsOfSession(operation, plan.sessionId);
  return needsApproval({ ...question, granted: grants.some(({ kind }) => kind === 'PLAN') });
}

function dangersOf({ orchestrator, team }: Planning, tasks: readonly PlanNode[]) {
  const dangerous = new Set(team.flatMap((member) => (member.isDangerous ? [member.id] : [])));
  return {
    tasks: tasks.length,
    harmlessTasks: orchestrator.maxUnapprovedTasks,
    dangerousTools: tasks.some((task) => dangerous.has(task.agentId)),
  };
}
