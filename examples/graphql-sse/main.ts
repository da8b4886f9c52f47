import { parseArgs } from 'node:util';
import { createAnswer } from './answer.ts';
import { type Connection, connect, type Event } from './connection.ts';
import { decide, describePlan } from './decide.ts';
import {
  AgentsDocument,
  type AnswerFragment,
  OpenSessionDocument,
  type OutcomeFragment,
  PlanDocument,
  type PlanOutcomeFragment,
  SendMessageDocument,
  TaskDocument,
} from './generated/graphql.ts';

const patience = 10 * 60_000;

/** What was sent: the task that answers it, or the plan of the whole team. */
interface Sent {
  taskId: string;
  planId: string | null;
}

/** Asks the first agent, or the whole team, and writes the answer while it comes. @throws Error when there is none */
async function chat(connection: Connection, content: string, isForTeam: boolean): Promise<void> {
  const { agents } = await connection.ask(AgentsDocument, {});
  const team = agents.edges.map(({ node }) => node);
  process.stdout.write(`Team: ${team.map(({ name, status }) => `${name} (${status})`).join(', ')}\n`);
  const { createSession } = await connection.ask(OpenSessionDocument, { title: 'graphql-sse example' });
  const session = createSession?.session;
  const agent = team[0];
  if (agent === undefined || !session) {
    throw new Error('there is no agent to ask or no session to write in');
  }
  if (!isForTeam) {
    process.stdout.write(`${agent.name}: `);
  }

  const answer = createAnswer((text) => process.stdout.write(text));
  const target = isForTeam ? {} : { agentId: agent.id };
  const asked = new Set<string>();
  let sent: Sent | undefined;
  for await (const event of connection.follow(session.id, AbortSignal.timeout(patience))) {
    // The first event tells that the stream has begun: a message sent from now on misses no part of its answer.
    sent ??= await sendMessage(connection, { sessionId: session.id, content, ...target });
    if (event.__typename === 'MessageDelta') {
      answer.add(event.offset, event.text);
    } else if (event.__typename === 'ApprovalRequired') {
      if (event.approval?.state === 'PENDING' && !asked.has(event.approval.id)) {
        asked.add(event.approval.id);
        // Not waited for: the stream must be read on, or the connection would be taken for dead.
        void decide(connection, event.approval).catch(tell);
      }
    } else {
      showProgress(event);
    }
    const whole = await readAnswer(connection, event, sent);
    if (whole !== null) {
      answer.finish(whole.content);
      for (const { position, path, startLine, endLine } of whole.citations) {
        process.stdout.write(`  [${position}] ${path}, lines ${startLine}–${endLine}\n`);
      }
      return;
    }
  }
}

async function sendMessage(
  connection: Connection,
  message: { sessionId: string; agentId?: string; content: string },
): Promise<Sent> {
  const sent = (await connection.ask(SendMessageDocument, message)).sendMessage;
  if (!sent?.task) {
    throw new Error('the message was deleted before it was answered');
  }
  return { taskId: sent.task.id, planId: sent.message?.plan?.id ?? null };
}

/** How the plan grows: its tasks, and what becomes of each. */
function showProgress(event: Event): void {
  if (event.__typename === 'TaskPlanCreated' && event.plan !== null) {
    process.stdout.write(`Plan:\n${describePlan(event.plan.tasks)}`);
  } else if ('task' in event && event.task?.plan && event.task.agent) {
    process.stdout.write(`  ${event.task.agent.name}: ${event.task.state.toLowerCase()}\n`);
  }
}

/** The answer, null while there is none yet. Where events are lost, the service is asked. @throws Error when there never will be one */
async function readAnswer(
  connection: Connection,
  event: Event,
  { taskId, planId }: Sent,
): Promise<AnswerFragment | null> {
  const isLost = event.__typename === 'HistoryLost';
  if (planId !== null) {
    const told = event.__typename === 'PlanEnded' ? event.plan : null;
    return answerOfPlan(isLost ? (await connection.ask(PlanDocument, { id: planId })).plan : told);
  }
  const told = 'task' in event ? event.task : null;
  return answerOfTask(isLost ? (await connection.ask(TaskDocument, { id: taskId })).task : told);
}

function answerOfTask(task: OutcomeFragment | null): AnswerFragment | null {
  if (task?.state === 'FAILED' || task?.state === 'CANCELLED' || task?.state === 'SKIPPED') {
    throw new Error(`the task is ${task.state}${task.errorMessage === null ? '' : `: ${task.errorMessage}`}`);
  }
  return task?.answer ?? null;
}

function answerOfPlan(plan: PlanOutcomeFragment | null): AnswerFragment | null {
  if (plan === null || plan.state === 'PLANNING' || plan.state === 'WAITING' || plan.state === 'RUNNING') {
    return null;
  }
  if (plan.answer === null) {
    throw new Error(`the plan is ${plan.state}`);
  }
  return plan.answer;
}

function tell(error: unknown): void {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
}

const { RETINUE_URL: url, RETINUE_TOKEN: token } = process.env;
try {
  if (url === undefined || token === undefined) {
    throw new Error('set RETINUE_URL and RETINUE_TOKEN');
  }
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { team: { type: 'boolean', default: false } },
  });
  const connection = connect(url, token, (reason, pause) => {
    process.stderr.write(`\n(${reason}; again in ${Math.round(pause)} ms)\n`);
  });
  await chat(connection, positionals[0] ?? 'What can you do for me?', values.team);
} catch (error) {
  tell(error);
  process.exitCode = 1;
}
