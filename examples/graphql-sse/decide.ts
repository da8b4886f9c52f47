import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import type { Connection, Event } from './connection.ts';
import { DecideDocument } from './generated/graphql.ts';

export type Approval = NonNullable<Extract<Event, { __typename: 'ApprovalRequired' }>['approval']>;

/** Asks the user on the terminal and tells the service. Whoever gives no answer declines. */
export async function decide(connection: Connection, approval: Approval): Promise<void> {
  const isApproved = await agrees(`${describe(approval)} Approve? (y/n) `);
  await connection.ask(DecideDocument, {
    id: approval.id,
    decision: isApproved ? 'APPROVED' : 'REJECTED',
    hash: approval.argumentsHash,
  });
}

function describe({ kind, toolName, task, plan, ...approval }: Approval): string {
  return kind === 'PLAN'
    ? `\nYour team plans:\n${plan === null ? '' : describePlan(plan.tasks)}`
    : `\n${task?.agent?.name ?? 'An agent'} wants to use ${toolName} with ${JSON.stringify(approval.arguments)}.`;
}

/** The tasks of a plan, a line each, with the numbers of those that come before. */
export function describePlan(
  tasks: readonly { key: string; agentName: string; instruction: string; dependsOn: readonly string[] }[],
): string {
  const number = (key: string): number => tasks.findIndex((task) => task.key === key) + 1;
  return tasks
    .map(({ key, agentName, instruction, dependsOn }) => {
      const after = dependsOn.length === 0 ? '' : ` (after ${dependsOn.map(number).join(', ')})`;
      return `  ${number(key)}. ${agentName}: ${instruction}${after}\n`;
    })
    .join('');
}

async function agrees(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const silence = once(terminal, 'close').then(() => 'no');
    return /^y/i.test(await Promise.race([terminal.question(question), silence]));
  } finally {
    terminal.close();
  }
}
