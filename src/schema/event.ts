import type { ApprovalState, PlanState } from '../generated/prisma/enums.ts';
import type { EventType } from '../outbox.ts';
import { agentById } from '../services/agent.ts';
import { approvalById } from '../services/approval.ts';
import type { StreamItem } from '../services/event.ts';
import { messageById } from '../services/message.ts';
import { planById } from '../services/plan.ts';
import type { FallbackReason } from '../services/plan-draft.ts';
import { sessionById } from '../services/session.ts';
import { taskById } from '../services/task.ts';
import type { addApproval } from './approval.ts';
import { type Builder, encodeId } from './builder.ts';
import type { addPlan } from './plan.ts';

type EventItem = Extract<StreamItem, { kind: 'event' }>;

/** The object type of each logged event, with what it says. */
const loggedTypes = {
  direct_agent_call: { name: 'DirectAgentCall', description: 'A message was given straight to one agent.' },
  agent_status_changed: { name: 'AgentStatusChanged', description: 'An agent went READY, BUSY or ERROR.' },
  task_started: { name: 'TaskStarted', description: 'A worker began an attempt at a task.' },
  task_progress: { name: 'TaskProgress', description: 'A running task got on. Told at most once a second.' },
  task_completed: { name: 'TaskCompleted', description: 'A task is done; its answer is stored.' },
  task_failed: { name: 'TaskFailed', description: 'An attempt at a task failed.' },
  task_cancelled: { name: 'TaskCancelled', description: 'A task was cancelled.' },
  task_skipped: {
    name: 'TaskSkipped',
    description: 'A task will never run, because one it depends on did not succeed.',
  },
  approval_required: {
    name: 'ApprovalRequired',
    description: 'Something waits for your approval. A `ToolRequest` or `PlanRequest` follows and says what.',
  },
  tool_request: { name: 'ToolRequest', description: 'An agent wants to call a tool and waits for your approval.' },
  plan_request: { name: 'PlanRequest', description: 'The orchestrator has a plan and waits for your approval.' },
  approval_resolved: {
    name: 'ApprovalResolved',
    description: 'Something you were asked to approve was decided or expired.',
  },
  planning_started: { name: 'PlanningStarted', description: 'A plan is being made for a message.' },
  task_plan_created: {
    name: 'TaskPlanCreated',
    description: 'A plan is made and approved where need be; its tasks run.',
  },
  plan_retried: { name: 'PlanRetried', description: 'What failed of a plan runs again.' },
  plan_ended: { name: 'PlanEnded', description: 'A plan came to its end, whichever it is.' },
  ingest_progress: {
    name: 'IngestProgress',
    description: 'The index of a memory got on with what was written. Told at most once a second, and at the end.',
  },
  context_retrieved: {
    name: 'ContextRetrieved',
    description: 'An agent searched its memory before it answers; the answer carries what was found as `citations`.',
  },
  message_created: { name: 'MessageCreated', description: 'A message was stored: yours or an answer.' },
} as const satisfies Record<EventType, { name: string; description: string }>;

const unloggedTypes = {
  delta: 'MessageDelta',
  heartbeat: 'Heartbeat',
  history_lost: 'HistoryLost',
  stream_ended: 'StreamEnded',
} as const;

/** The event stream's interface and one object type per event. */
export function addEvent(
  builder: Builder,
  enums: {
    agentStatus: ReturnType<Builder['enumType']>;
    approvalState: ReturnType<typeof addApproval>['state'];
    planState: ReturnType<typeof addPlan>['state'];
    fallbackReason: ReturnType<typeof addPlan>['fallbackReason'];
  },
) {
  const type = builder.enumType('EventType', {
    description: 'Kinds of events that a subscription can ask for.',
    values: {
      ...Object.fromEntries(
        Object.entries(loggedTypes).map(([value, { description }]) => [value.toUpperCase(), { value, description }]),
      ),
      MESSAGE_DELTA: { value: 'message_delta', description: 'A piece of an answer that is being written. Not logged.' },
    } as Record<string, { value: EventType | 'message_delta'; description: string }>,
  });

  const event = builder.interfaceRef<StreamItem>('Event').implement({
    description:
      'Something that happened to what you own. `__typename` tells what; each kind is an object type of its own.',
    resolveType: (item) => (item.kind === 'event' ? loggedTypes[item.event.type].name : unloggedTypes[item.kind]),
    fields: (t) => ({
      cursor: t.exposeString('cursor', {
        description: 'Pass the newest one as `after` to resume: nothing is missed and nothing comes twice.',
      }),
      at: t.field({
        type: 'DateTime',
        description: 'When it was committed; for what is not logged, when it was sent.',
        resolve: (item) => (item.kind === 'event' ? new Date(item.event.at) : new Date()),
      }),
      session: t.field({
        type: 'Session',
        nullable: true,
        description: 'The session it belongs to; null when it belongs to none or the session was deleted since.',
        resolve: (item, _arguments, context) => {
          const id = sessionIdOf(item);
          return id === null ? null : sessionById(context.operation.read, id);
        },
      }),
    }),
  });

  const logged = (eventType: EventType) => {
    const { name, description } = loggedTypes[eventType];
    return builder.objectRef<EventItem>(name).implement({ description, interfaces: [event] });
  };
  const text = (item: EventItem, member: string): string => String(item.event.data[member]);

  const started = logged('task_started');
  const progressed = logged('task_progress');
  const completed = logged('task_completed');
  const failed = logged('task_failed');
  const cancelled = logged('task_cancelled');
  const skipped = logged('task_skipped');
  const required = logged('approval_required');
  const toolRequested = logged('tool_request');
  const planRequested = logged('plan_request');
  const resolved = logged('approval_resolved');
  const called = logged('direct_agent_call');
  const changed = logged('agent_status_changed');
  const created = logged('message_created');
  const planning = logged('planning_started');
  const planCreated = logged('task_plan_created');
  const planRetried = logged('plan_retried');
  const planEnded = logged('plan_ended');
  const ingested = logged('ingest_progress');
  const retrieved = logged('context_retrieved');

  for (const ref of [
    started,
    progressed,
    completed,
    failed,
    cancelled,
    skipped,
    called,
    toolRequested,
    planRequested,
    ingested,
    retrieved,
  ]) {
    builder.objectField(ref, 'task', (t) =>
      t.field({
        type: 'Task',
        nullable: true,
        description: 'The task, as it is now; null when it was deleted since.',
        resolve: (item, _arguments, context) => taskById(context.operation.read, text(item, 'taskId')),
      }),
    );
    builder.objectField(ref, 'taskId', (t) =>
      t.id({
        description: 'Id of the task, also when that was deleted since.',
        resolve: (item) => encodeId('Task', text(item, 'taskId')),
      }),
    );
  }
  for (const ref of [planning, planRequested, planCreated, planRetried, planEnded]) {
    builder.objectField(ref, 'plan', (t) =>
      t.field({
        type: 'Plan',
        nullable: true,
        description: 'The plan, as it is now; null when it was deleted since.',
        resolve: (item, _arguments, context) => planById(context.operation.read, text(item, 'planId')),
      }),
    );
    builder.objectField(ref, 'planId', (t) =>
      t.id({
        description: 'Id of the plan, also when that was deleted since.',
        resolve: (item) => encodeId('Plan', text(item, 'planId')),
      }),
    );
  }
  builder.objectField(planCreated, 'fallbackReason', (t) =>
    t.field({
      type: enums.fallbackReason,
      nullable: true,
      description: 'Why it is a simple plan, one agent after the other; null for one of the planner.',
      resolve: (item) => item.event.data['fallbackReason'] as FallbackReason | null,
    }),
  );
  builder.objectField(planEnded, 'state', (t) =>
    t.field({
      type: enums.planState,
      description: 'How it ended.',
      resolve: (item) => text(item, 'state') as PlanState,
    }),
  );
  for (const ref of [called, changed, ingested, retrieved]) {
    builder.objectField(ref, 'agent', (t) =>
      t.field({
        type: 'Agent',
        nullable: true,
        description: 'The agent, as it is now; null when it was deleted since.',
        resolve: (item, _arguments, context) => agentById(context.operation.read, text(item, 'agentId')),
      }),
    );
  }
  for (const ref of [called, created]) {
    builder.objectField(ref, 'message', (t) =>
      t.field({
        type: 'Message',
        nullable: true,
        description: 'The message; null when it was deleted since.',
        resolve: (item, _arguments, context) => messageById(context.operation.read, text(item, 'messageId')),
      }),
    );
  }
  builder.objectField(ingested, 'pending', (t) =>
    t.float({
      description: 'Chunks that the index still has to be told of.',
      resolve: (item) => Number(item.event.data['pending']),
    }),
  );
  builder.objectField(retrieved, 'matches', (t) =>
    t.int({ description: 'How many chunks were found.', resolve: (item) => Number(item.event.data['matches']) }),
  );
  builder.objectField(retrieved, 'degraded', (t) =>
    t.boolean({
      description: 'Whether words alone were searched, because meaning could not be.',
      resolve: (item) => item.event.data['degraded'] === true,
    }),
  );
  builder.objectField(started, 'attempt', (t) =>
    t.int({ description: 'Which attempt, from 1.', resolve: (item) => Number(item.event.data['attempt']) }),
  );
  builder.objectField(progressed, 'progress', (t) =>
    t.float({ description: 'From 0 to 1.', resolve: (item) => Number(item.event.data['progress']) }),
  );
  builder.objectField(progressed, 'note', (t) =>
    t.string({ description: 'What it is at.', resolve: (item) => text(item, 'note') }),
  );
  builder.objectField(changed, 'status', (t) =>
    t.field({
      type: enums.agentStatus,
      description: 'What it became.',
      resolve: (item) => text(item, 'status'),
    }),
  );
  builder.objectField(failed, 'code', (t) =>
    t.string({ description: 'Error code, as in the list of error codes.', resolve: (item) => text(item, 'code') }),
  );
  builder.objectField(failed, 'willRetry', (t) =>
    t.boolean({
      description: 'Whether another attempt follows.',
      resolve: (item) => item.event.data['willRetry'] === true,
    }),
  );

  for (const ref of [required, toolRequested, planRequested, resolved]) {
    builder.objectField(ref, 'approvalId', (t) =>
      t.id({
        description: 'Id of the approval, also when that was deleted since.',
        resolve: (item) => encodeId('Approval', text(item, 'approvalId')),
      }),
    );
    builder.objectField(ref, 'approval', (t) =>
      t.field({
        type: 'Approval',
        nullable: true,
        description: 'The approval, as it is now; null when it was deleted since.',
        resolve: (item, _arguments, context) => approvalById(context.operation.read, text(item, 'approvalId')),
      }),
    );
  }
  builder.objectField(toolRequested, 'toolName', (t) =>
    t.string({
      nullable: true,
      description: 'Name of the tool; null when the approval was deleted since.',
      resolve: async (item, _arguments, context) =>
        (await approvalById(context.operation.read, text(item, 'approvalId')))?.toolName ?? null,
    }),
  );
  builder.objectField(toolRequested, 'arguments', (t) =>
    t.field({
      type: 'JSON',
      nullable: true,
      description: 'What the tool would be called with; null when the approval was deleted since.',
      resolve: async (item, _arguments, context) =>
        (await approvalById(context.operation.read, text(item, 'approvalId')))?.arguments ?? null,
    }),
  );
  builder.objectField(resolved, 'state', (t) =>
    t.field({
      type: enums.approvalState,
      description: 'What it came to.',
      resolve: (item) => text(item, 'state') as ApprovalState,
    }),
  );

  builder.objectRef<Extract<StreamItem, { kind: 'delta' }>>('MessageDelta').implement({
    description:
      'The next piece of an answer while it is written. A stream that begins in the middle of an answer first gets the ' +
      'text so far, with `offset` 0. Pieces are not logged: where one was lost, `offset` shows it; the whole text ' +
      'follows as `MessageCreated`.',
    interfaces: [event],
    fields: (t) => ({
      messageId: t.id({
        description: 'Id that the message will have.',
        resolve: (item) => encodeId('Message', item.delta.messageId),
      }),
      taskId: t.id({
        description: 'Id of the task that writes it.',
        resolve: (item) => encodeId('Task', item.delta.taskId),
      }),
      offset: t.int({
        description: 'Place of `text` in the answer, in UTF-16 code units. 0 starts the answer anew.',
        resolve: (item) => item.delta.offset,
      }),
      text: t.string({ description: 'The piece.', resolve: (item) => item.delta.text }),
    }),
  });
  builder.objectRef<Extract<StreamItem, { kind: 'heartbeat' }>>('Heartbeat').implement({
    description: 'The stream is alive. The first one comes at once and tells that it has begun.',
    interfaces: [event],
  });
  builder.objectRef<Extract<StreamItem, { kind: 'history_lost' }>>('HistoryLost').implement({
    description:
      'Events between your `after` and this `cursor` are no longer in the log: read anew what you show, then go on.',
    interfaces: [event],
  });
  const reason = builder.enumType('StreamEndReason', {
    description: 'Why the service ended a stream.',
    values: {
      SHUTDOWN: { description: 'The server stops. Reconnect: another one answers.', value: 'SHUTDOWN' },
      TOKEN_EXPIRED: { description: 'Your token ended. Reconnect with a new one.', value: 'TOKEN_EXPIRED' },
      TOO_SLOW: {
        description: 'You took events more slowly than they came. Reconnect to get the ones that are missing.',
        value: 'TOO_SLOW',
      },
    } as const,
  });
  builder.objectRef<Extract<StreamItem, { kind: 'stream_ended' }>>('StreamEnded').implement({
    description:
      'The service ends the stream; nothing follows. Nothing is lost: subscribe again with `after` at this `cursor`.',
    interfaces: [event],
    fields: (t) => ({
      reason: t.field({ type: reason, description: 'Why it ends.', resolve: (item) => item.reason }),
      reconnectAfter: t.int({
        nullable: true,
        description: 'Milliseconds to wait before you reconnect, so that not all come at once; null for no wait.',
        resolve: (item) => item.reconnectAfter,
      }),
    }),
  });
  return { event, type };
}

function sessionIdOf(item: StreamItem): string | null {
  return item.kind === 'event' ? item.event.sessionId : item.kind === 'delta' ? item.delta.sessionId : null;
}
