/** What the database must look like for users to be kept apart, and each exception with its reason. */

/** The roles that the service's processes and functions act as. */
export const serviceRoles = ['app_user', 'app_worker', 'app_queue', 'app_identity'];

/** Roles that processes sign in as. The others own their functions and can't sign in. */
export const loginRoles: ReadonlySet<string> = new Set(['app_user', 'app_worker']);

/** A worker acts as one user after its claim. */
export const expectedMemberships: ReadonlySet<string> = new Set(['app_worker is a member of app_user']);

/** Tables whose rows are no user's: no user may see them. */
export const tablesOfNobody: ReadonlySet<string> = new Set([
  // Processes by heartbeat; only the engine looks at them.
  'workers',
  // Which migrations ran; only migrations look at it.
  'schema_migrations',
]);

/** Policies beside a user's own rows. */
const exceptions: Record<string, string> = {
  // A token is turned into a user before any user is known.
  users: everyRow('sign_in', 'app_identity'),
  // A claim picks the next task over all users; grants keep it to ids, states and counts.
  tenants: everyRow('engine', 'app_queue'),
  lanes: everyRow('engine', 'app_queue'),
  tasks: everyRow('engine', 'app_queue'),
  workers: everyRow('engine', 'app_queue'),
};

function everyRow(name: string, role: string): string {
  return `${name} PERMISSIVE ALL TO ${role} USING (true) WITH CHECK (true)`;
}

/** The policies of a table, whose rows belong to the user in that column, or to nobody. */
export function expectedPolicies(table: string, ownerColumn: string | null): string[] {
  const own = `(${ownerColumn} = ( SELECT app.user_id() AS user_id))`;
  const exception = exceptions[table];
  return [
    ...(ownerColumn === null ? [] : [`own_rows PERMISSIVE ALL TO app_user USING (${own}) WITH CHECK (${own})`]),
    ...(exception === undefined ? [] : [exception]),
  ];
}

/** Indexes of user tables that do not start with the user. */
export const expectedIndexes: ReadonlySet<string> = new Set([
  // Sign-in looks a user up by token, and there is no user yet.
  'users_issuer_subject_key',
  // The engine finds over all users: whose turn it is, what a dead worker held, which retries are due.
  'tenants_ready_idx',
  'tasks_worker_id_idx',
  'tasks_retry_due_idx',
  // Upkeep finds over all users which approvals expired.
  'approvals_expiry_idx',
]);

/** Types of the columns of a task that the engine may read. */
export const engineColumnTypes: ReadonlySet<string> = new Set([
  'uuid',
  'integer',
  'task_kind',
  'task_state',
  'timestamp with time zone',
]);

/** Functions that run with their owner's rights: whose they are and who may call them. Triggers are called by nobody. */
export const expectedDefiners: readonly [RegExp, owner: string, callers: string[]][] = [
  [/^app\.sign_in\(text,text\)$/, 'app_identity', ['app_user']],
  [/^queue\.(claim|heartbeat|rescue|retire)\(.+\)$/, 'app_queue', ['app_worker']],
  [/^queue\.\w+\(\)$/, 'app_queue', []],
];
