import { type Database, statement } from '../adapters/postgres.ts';
import { notFound } from '../errors.ts';
import type { UserModel } from '../generated/prisma/models.ts';
import type { Operation, ReadOperation } from '../operation.ts';
import { createAgent } from './agent.ts';
import { createOrchestrator } from './orchestrator.ts';
import { starterOrchestrator, starterTeam } from './starter-team.ts';
import { tables } from './table.ts';
import { addBuiltInTools } from './tool.ts';

const signIn = statement<{ userId: string; created: boolean }>(
  `SELECT user_id AS "userId", created FROM app.sign_in($1, $2)`,
);
const viewer = statement<UserModel & Record<string, unknown>>(`SELECT ${tables.user.columns} FROM users WHERE id = $1`);
const lockUser = statement(`SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`);
const hasTeam = statement<{ present: boolean }>(
  `SELECT EXISTS (SELECT FROM orchestrators WHERE user_id = $1) AS present`,
);

/**
 * The user of a token, made at first sight. A new user gets a starter team; should the process die in between, the next
 * sign-in finds the orchestrator missing and makes it then.
 */
export async function signInUser(
  database: Database,
  openOperation: (userId: string) => Operation,
  identity: { issuer: string; subject: string },
): Promise<string> {
  const [user] = await database.query(signIn, [identity.issuer, identity.subject]);
  if (user === undefined) {
    throw new Error('sign-in gave no user');
  }
  const operation = openOperation(user.userId);
  try {
    const [team] = await operation.read.query(hasTeam, [user.userId]);
    if (team?.present !== true) {
      await addStarterTeam(operation);
    }
  } finally {
    await operation.close();
  }
  return user.userId;
}

/** Once per user: the orchestrator marks that it was done, so that a team the user emptied stays empty. */
async function addStarterTeam(operation: Operation): Promise<void> {
  await operation.write(async (write) => {
    // Two first requests at once: the second waits here and then finds the team.
    await write.query(lockUser, [write.userId]);
    const [team] = await write.query(hasTeam, [write.userId]);
    if (team?.present === true) {
      return;
    }
    await createOrchestrator(write, starterOrchestrator);
    const toolIds = await addBuiltInTools(write);
    for (const { tools, ...agent } of starterTeam) {
      await createAgent(write, { ...agent, toolIds: tools.flatMap((name) => toolIds.get(name) ?? []) });
    }
  });
}

/** The calling user's own row. */
export async function currentUser(operation: ReadOperation): Promise<UserModel> {
  const [user] = await operation.query(viewer, [operation.userId]);
  if (user === undefined) {
    throw notFound('user');
  }
  return user;
}

/** The calling user by id; null for every other id. */
export async function userById(operation: ReadOperation, id: string): Promise<UserModel | null> {
  return id === operation.userId ? currentUser(operation) : null;
}
