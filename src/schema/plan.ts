import { PlanState } from '../generated/prisma/enums.ts';
import { agentById } from '../services/agent.ts';
import {
  graphOf,
  listPlanTasks,
  listSessionPlans,
  messagesOfPlan,
  type PlanTask,
  planById,
  planMermaid,
  planProgress,
  taskResult,
  tasksOfPlan,
} from '../services/plan.ts';
import type { FallbackReason } from '../services/plan-draft.ts';
import { sessionById } from '../services/session.ts';
import type { Builder } from './builder.ts';

const fallbackReasons = {
  TOO_SLOW: 'The planner did not answer in time.',
  PLANNER_FAILED: 'The model of the planner could not be reached, or refused.',
  MALFORMED: 'What the planner wrote is no plan.',
  EMPTY: 'The plan had no tasks.',
  TOO_MANY_TASKS: 'The plan had more tasks than `Orchestrator.maxPlanTasks`.',
  DUPLICATE_KEY: 'Two tasks had the same key.',
  UNKNOWN_AGENT: 'The plan named an agent that is not in your team.',
  UNKNOWN_DEPENDENCY: 'A task depended on one that the plan does not have.',
  CYCLE: 'Tasks waited for each other.',
} as const satisfies Record<FallbackReason, string>;

/** The plan with its tasks and enums, and where it is found below sessions, messages and tasks. */
export function addPlan(builder: Builder) {
  const state = builder.enumType('PlanState', {
    description: 'Where a plan stands. PLANNING, WAITING and RUNNING come before its end, the others are ends.',
    values: {
      PLANNING: { description: 'It is being made.', value: PlanState.PLANNING },
      WAITING: { description: 'It waits for your approval.', value: PlanState.WAITING },
      RUNNING: { description: 'Its tasks run.', value: PlanState.RUNNING },
      COMPLETED: { description: 'All its tasks succeeded and the answer is stored.', value: PlanState.COMPLETED },
      FAILED: {
        description: 'Some of it failed. The answer, where there is one, says what is missing; see `retryPlan`.',
        value: PlanState.FAILED,
      },
      CANCELLED: { description: 'You cancelled it.', value: PlanState.CANCELLED },
      REJECTED: { description: 'You declined it.', value: PlanState.REJECTED },
      EXPIRED: { description: 'Nobody approved it in time; `retryPlan` asks again.', value: PlanState.EXPIRED },
    } as const,
  });
  const fallbackReason = builder.enumType('PlanFallbackReason', {
    description: 'Why a simple plan, one agent after the other, stands in for one of the planner.',
    values: Object.fromEntries(
      Object.entries(fallbackReasons).map(([value, description]) => [value, { value, description }]),
    ) as Record<FallbackReason, { value: FallbackReason; description: string }>,
  });

  const task = builder.objectRef<PlanTask>('PlanTask').implement({
    description: 'A task of a plan: as it was planned, and what became of it.',
    fields: (t) => ({
      key: t.exposeString('key', { description: 'Its name within the plan.' }),
      instruction: t.exposeString('instruction', { description: 'What the agent is to do.' }),
      why: t.exposeString('why', { description: 'Why the plan needs it.' }),
      dependsOn: t.stringList({
        description: 'Keys of the tasks whose results it needs.',
        resolve: (planned) => [...planned.dependsOn],
      }),
      agentName: t.string({
        description: 'The name that the agent had when the plan was made.',
        resolve: (planned) => planned.agent,
      }),
      agent: t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent, as it is now; null when it was deleted.',
        resolve: (planned, _arguments, context) => agentById(context.operation.read, planned.agentId),
      }),
      task: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that does it; after a retry the newest. Null until the plan runs.',
        resolve: (planned) => planned.task,
      }),
      result: t.string({
        nullable: true,
        description: 'What it came to; null until it is completed.',
        resolve: (planned, _arguments, context) =>
          planned.task === null ? null : taskResult(context.operation.read, planned.task.id),
      }),
    }),
  });
  const edge = builder.objectRef<{ from: string; to: string }>('PlanEdge').implement({
    description: 'One task of a plan needs the result of another.',
    fields: (t) => ({
      from: t.exposeString('from', { description: 'Key of the task that comes first.' }),
      to: t.exposeString('to', { description: 'Key of the task that needs its result.' }),
    }),
  });

  builder.node('Plan', {
    description: 'How your team answers a message together: tasks of several agents as a graph, then one answer.',
    id: { resolve: (plan) => plan.id },
    loadOne: (id, context) => planById(context.operation.read, id),
    fields: (t) => ({
      state: t.expose('state', { type: state, description: 'Where it stands.' }),
      request: t.exposeString('request', { description: 'The text of the message that it is for.' }),
      tasks: t.field({
        type: [task],
        description: 'Its tasks, each after those it depends on; empty while it is being made.',
        resolve: (plan, _arguments, context) => listPlanTasks(context.operation.read, plan),
      }),
      edges: t.field({
        type: [edge],
        description: 'Which tasks need the results of which.',
        resolve: (plan) =>
          (graphOf(plan)?.tasks ?? []).flatMap(({ key, dependsOn }) => dependsOn.map((from) => ({ from, to: key }))),
      }),
      progress: t.float({
        description: 'From 0 to 1: the mean of its tasks and of the answer.',
        resolve: (plan, _arguments, context) => planProgress(context.operation.read, plan),
      }),
      mermaid: t.string({
        description:
          'The graph as a Mermaid flowchart, coloured by the states of its tasks. No text can break out of it.',
        resolve: (plan, _arguments, context) => planMermaid(context.operation.read, plan),
      }),
      fallbackReason: t.field({
        type: fallbackReason,
        nullable: true,
        description: 'Why it is a simple plan; null for one of the planner.',
        resolve: (plan) => plan.fallbackReason as FallbackReason | null,
      }),
      fallbackMessage: t.exposeString('fallbackMessage', {
        nullable: true,
        description: 'Why it is a simple plan, in words; null for one of the planner.',
      }),
      createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When the message came.' }),
      startedAt: t.expose('startedAt', {
        type: 'DateTime',
        nullable: true,
        description: 'When its tasks were first queued.',
      }),
      finishedAt: t.expose('finishedAt', { type: 'DateTime', nullable: true, description: 'When it ended.' }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to.',
        resolve: (plan, _arguments, context) => sessionById(context.operation.read, plan.sessionId),
      }),
      message: t.field({
        type: 'Message',
        nullable: true,
        description: 'The message that it is for.',
        resolve: async (plan, _arguments, context) => (await messagesOfPlan(context.operation.read, plan.id)).request,
      }),
      answer: t.field({
        type: 'Message',
        nullable: true,
        description: 'The newest answer that came of it; null until it is stored.',
        resolve: async (plan, _arguments, context) => (await messagesOfPlan(context.operation.read, plan.id)).answer,
      }),
      planningTask: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that makes it, and waits for your approval where that is asked.',
        resolve: async (plan, _arguments, context) => (await tasksOfPlan(context.operation.read, plan.id)).planning,
      }),
      composingTask: t.field({
        type: 'Task',
        nullable: true,
        description: 'The task that composes the answer; null until the plan runs.',
        resolve: async (plan, _arguments, context) => (await tasksOfPlan(context.operation.read, plan.id)).composing,
      }),
    }),
  });

  const connection = builder.connectionObject({ type: 'Plan', name: 'PlanConnection' }, { name: 'PlanConnectionEdge' });
  builder.objectField('Session', 'plans', (t) =>
    t.connection(
      {
        type: 'Plan',
        description: 'Its plans, newest first.',
        resolve: (session, page, context) => listSessionPlans(context.operation.read, session.id, page),
      },
      connection,
    ),
  );
  builder.objectField('Message', 'plan', (t) =>
    t.field({
      type: 'Plan',
      nullable: true,
      description: 'The plan that was made for it, or that it came of.',
      resolve: ({ planId }, _arguments, context) => (planId === null ? null : planById(context.operation.read, planId)),
    }),
  );
  builder.objectField('Task', 'plan', (t) =>
    t.field({
      type: 'Plan',
      nullable: true,
      description: 'The plan that it is part of; null for a task of its own.',
      resolve: ({ planId }, _arguments, context) => (planId === null ? null : planById(context.operation.read, planId)),
    }),
  );
  builder.objectField('Approval', 'plan', (t) =>
    t.field({
      type: 'Plan',
      nullable: true,
      description: 'The plan that is to be approved; null for a call of a tool.',
      resolve: ({ planId }, _arguments, context) => (planId === null ? null : planById(context.operation.read, planId)),
    }),
  );
  return { state, fallbackReason };
}
