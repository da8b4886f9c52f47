import { createAnswer } from './answer.ts';
import { type Connection, connect, type Event } from './connection.ts';
import {
  AgentsDocument,
  OpenSessionDocument,
  type OutcomeFragment,
  SendMessageDocument,
  TaskDocument,
} from './generated/graphql.ts';

const patience = 10 * 60_000;

/** Asks the first agent of the team and writes the answer while it comes. @throws Error when there is none */
async function chat(connection: Connection, content: string): Promise<void> {
  const { agents } = await connection.ask(AgentsDocument, {});
  const team = agents.edges.map(({ node }) => node);
  process.stdout.write(`Team: ${team.map(({ name, status }) => `${name} (${status})`).join(', ')}\n`);
  const { createSession } = await connection.ask(OpenSessionDocument, { title: 'graphql-sse example' });
  const session = createSession?.session;
  const agent = team[0];
  if (agent === undefined || !session) {
    throw new Error('there is no agent to ask or no session to write in');
  }
  process.stdout.write(`${agent.name}: `);

  const answer = createAnswer((text) => process.stdout.write(text));
  let taskId: string | undefined;
  for await (const event of connection.follow(session.id, AbortSignal.timeout(patience))) {
    // The first event tells that the stream has begun: a message sent from now on misses no part of its answer.
    taskId ??= await sendMessage(connection, { sessionId: session.id, agentId: agent.id, content });
    if (event.__typename === 'MessageDelta') {
      answer.add(event.offset, event.text);
    }
    const text = readAnswer(await readTask(connection, event, taskId));
    if (text !== null) {
      answer.finish(text);
      return;
    }
  }
}

async function sendMessage(
  connection: Connection,
  message: { sessionId: string; agentId: string; content: string },
): Promise<string> {
  const task = (await connection.ask(SendMessageDocument, message)).sendMessage?.task;
  if (!task) {
    throw new Error('the message was deleted before it was answered');
  }
  return task.id;
}

/** The task as an event tells it; where events are lost, the service is asked. Null when the event tells nothing of it. */
async function readTask(connection: Connection, event: Event, id: string): Promise<OutcomeFragment | null> {
  if (event.__typename === 'HistoryLost') {
    return (await connection.ask(TaskDocument, { id })).task;
  }
  return 'task' in event ? event.task : null;
}

/** The answer of a task, null while there is none yet. @throws Error when there never will be one */
function readAnswer(task: OutcomeFragment | null): string | null {
  if (task?.state === 'FAILED' || task?.state === 'CANCELLED' || task?.state === 'SKIPPED') {
    throw new Error(`the task is ${task.state}${task.errorMessage === null ? '' : `: ${task.errorMessage}`}`);
  }
  return task?.answer?.content ?? null;
}

const { RETINUE_URL: url, RETINUE_TOKEN: token } = process.env;
try {
  if (url === undefined || token === undefined) {
    throw new Error('set RETINUE_URL and RETINUE_TOKEN');
  }
  const connection = connect(url, token, (reason, pause) => {
    process.stderr.write(`\n(${reason}; again in ${Math.round(pause)} ms)\n`);
  });
  await chat(connection, process.argv[2] ?? 'What can you do for me?');
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
