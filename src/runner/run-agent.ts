import { forgetDeltas } from '../outbox.ts';
import { isUntouched } from '../queue/repeat.ts';
import { callInput } from '../services/agent-call.ts';
import {
  type AgentRun,
  completeAgentRun,
  loadAgentRun,
  type NewModelStep,
  saveModelStep,
} from '../services/agent-run.ts';
import type { NewApproval } from '../services/approval.ts';
import { suspendAttempt } from '../services/attempt.ts';
import type { MemoryIndex } from '../services/memory-search.ts';
import type { ToolArguments } from '../services/tool-arguments.ts';
import { type CallEntry, saveCalls } from '../services/tool-call.ts';
import { askModel } from './ask-model.ts';
import { callTool } from './call-tool.ts';
import { type Excerpt, recall, rememberExchange, withExcerpts } from './retrieval.ts';
import type { TaskHandler, TaskRun } from './run-task.ts';
import { type NextStep, nextStep } from './step.ts';
import { type LoadTools, ToolResultPendingError } from './tool.ts';

export interface AgentRunOptions {
  loadTools: LoadTools;
  /** Where agents' memories are searched. */
  memory: MemoryIndex;
  toolArguments: Pick<ToolArguments, 'findFault'>;
  /** Most answers of a model for one task. */
  maxTurns: number;
  /** Most characters of one result of a tool that a model is told. */
  resultLength: number;
}

/** Most calls of one answer that are made: each of them may start work. */
const mostCalls = 16;

type StepTo<Do extends NextStep['do']> = Extract<NextStep, { do: Do }>;

/** One run of an agent: what is known of its task, kept as it is stored. */
interface Conversation {
  run: TaskRun;
  options: AgentRunOptions;
  known: AgentRun;
  /** What the agent's memory has to say to the message. */
  excerpts: readonly Excerpt[];
  /** The model's last answer, when it is to be saved with the end of the task. */
  unsaved: NewModelStep | null;
  /** Calls of this attempt whose results come from elsewhere, by their places. */
  away: Map<number, ToolResultPendingError>;
}

/**
 * Lets agents answer messages, step by step: the model is asked, the tools that it wants are called, and it is asked
 * again with their results. Each answer and result is stored before the next step. No transaction is open while a model
 * or a tool works.
 */
export function createAgentRunner(options: AgentRunOptions): TaskHandler {
  return async (run) => {
    const { claim, task, resources } = run;
    try {
      await takeSteps(run, options);
    } finally {
      // Stored or given up: nobody goes on with this text.
      forgetDeltas(resources.channel, claim.userId, task.answerId);
    }
  };
}

async function takeSteps(run: TaskRun, options: AgentRunOptions): Promise<void> {
  // All that none of them needs of the others is read in one trip.
  const loading = loadAgentRun(run.operation.read, run.task);
  const reading = Promise.all([loading, options.loadTools(run), recall(options.memory, run, loading)]);
  if (isUntouched(run.task)) {
    // Nothing of earlier attempts is to be read behind it.
    run.operation.endReads();
  }
  const [known, tools, excerpts] = await reading;
  const findFault = options.toolArguments.findFault;
  const { maxTurns } = options;
  const away = new Map<number, ToolResultPendingError>();
  const conversation: Conversation = { run, options, known, excerpts, unsaved: null, away };
  // Each round stores a step that the next one builds on, and turns are bounded: so it ends.
  for (;;) {
    const places = new Set(away.keys());
    const next = nextStep(known, { tools, findFault, mostCalls, maxTurns, away: places });
    switch (next.do) {
      case 'ask-model':
        await letModelAnswer(conversation, next);
        break;
      case 'make-calls':
        await makeCalls(conversation, next);
        break;
      case 'wait':
        return await suspend(conversation, next);
      case 'finish':
        return await finish(conversation, next.content);
    }
  }
}

async function letModelAnswer(conversation: Conversation, next: StepTo<'ask-model'>): Promise<void> {
  const { run, known, excerpts } = conversation;
  const { position, tools } = next;
  const messages = withExcerpts(next.messages, excerpts);
  const { model, temperature } = known.agent;
  const startedAt = run.resources.clock.now();
  // A task of a plan has no message of its own: its result is a part of the plan's answer.
  const voice = { model, temperature, isMessage: known.assignment === null, tools, turn: known.steps.length };
  const output = await askModel(run, voice, { position, messages });
  const step = { position, output, startedAt };
  if ((output.toolCalls ?? []).length === 0 && !known.agent.memoryConversations) {
    // Nothing begins between this answer and the end of the task: one commit stores both.
    conversation.unsaved = step;
  } else {
    await run.operation.write((write) => saveModelStep(write, run.claim, step));
  }
  known.steps.push({ position, output });
}

/** Stores what is known and marks what begins in one commit, then makes all calls at once, each with a result of its own. */
async function makeCalls(conversation: Conversation, { refused, runs }: StepTo<'make-calls'>): Promise<void> {
  const { run, options, known, away } = conversation;
  const startedAt = run.resources.clock.now();
  const blank = { arguments: null, approvalId: null, isAway: false, result: null };
  const entries: CallEntry[] = [
    ...refused.map(({ position, callId, toolName, result }) => ({
      position,
      startedAt,
      output: { ...blank, callId, toolName, result },
    })),
    ...runs.map(({ position, callId, toolName, arguments: given, approvalId, isAway }) => ({
      position,
      startedAt,
      output: { ...blank, callId, toolName, arguments: given, approvalId, isAway },
    })),
  ];
  const turns = known.steps.length;
  const note = `calling ${[...new Set(runs.map(({ toolName }) => toolName))].join(', ')}`;
  const told = runs.length === 0 ? null : { progress: turns / (turns + 1), note };
  await save(conversation, entries, told);

  const stop = new AbortController();
  const signal = AbortSignal.any([run.signal, stop.signal]);
  const made = await Promise.allSettled(
    runs.map(async ({ position, tool, arguments: given }) => {
      const entry = entries.find((one) => one.position === position);
      try {
        const { resultLength } = options;
        const idempotencyKey = `${run.task.id}:${position}`;
        const end = await callTool(run, tool, given, { idempotencyKey, resultLength, signal });
        if (entry === undefined) {
          return;
        }
        if (end instanceof ToolResultPendingError) {
          away.set(position, end);
          await save(conversation, [{ ...entry, output: { ...entry.output, isAway: true } }]);
        } else {
          await save(conversation, [{ ...entry, output: { ...entry.output, isAway: false, result: end } }]);
        }
      } catch (error) {
        // What ends one of them ends the run: the others shall not go on for nobody.
        stop.abort(error);
        throw error;
      }
    }),
  );
  const failed = made.find((one) => one.status === 'rejected');
  if (failed !== undefined) {
    throw stop.signal.reason;
  }
}

async function save(
  { run, known }: Conversation,
  entries: readonly CallEntry[],
  told: { progress: number; note: string } | null = null,
): Promise<void> {
  await run.operation.write((write) => saveCalls(write, run.claim, entries, told));
  const places = new Set(entries.map(({ position }) => position));
  known.calls = [...known.calls.filter(({ position }) => !places.has(position)), ...entries].toSorted(
    (one, other) => one.position - other.position,
  );
}

async function suspend({ run, known, away }: Conversation, { asked, pending }: StepTo<'wait'>): Promise<void> {
  const { agent, task } = known;
  const approvals = asked.map(
    ({ tool, callId, arguments: given, interrupted }): NewApproval => ({
      kind: 'TOOL',
      sessionId: task.sessionId ?? '',
      taskId: task.id,
      toolId: tool.toolId,
      toolName: tool.name,
      callId,
      arguments: given,
      argumentsSchema: tool.argumentsSchema,
      dangerous: tool.dangerous,
      interrupted,
      expiresIn: tool.approvalTimeout ?? approvalTimeoutOf(agent) ?? run.resources.approvalTimeout,
    }),
  );
  await run.progress.end();
  await run.operation.write((write) =>
    suspendAttempt(write, run.claim, {
      asked: approvals,
      pending,
      isReady: async (operation) => {
        for (const result of away.values()) {
          if (await result.isReady(operation)) {
            return true;
          }
        }
        return false;
      },
    }),
  );
}

function approvalTimeoutOf({ approvalTimeoutSeconds: seconds }: AgentRun['agent']): number | null {
  return seconds === null ? null : seconds * 1_000;
}

async function finish({ run, known, unsaved }: Conversation, content: string): Promise<void> {
  await rememberExchange(run, known, content);
  const hasOpenApprovals = known.approvals.some(({ state }) => state === 'PENDING');
  await run.progress.end();
  const callerTaskId = callInput(run.task)?.callerTaskId ?? null;
  const end = { step: unsaved, hasOpenApprovals, callerTaskId };
  await run.operation.write((write) => completeAgentRun(write, run.claim, content, end));
}
