/** What the database must look like for users to be kept apart, and each exception with its reason. */

/** The roles that the service's processes and functions act as. */
export const serviceRoles = ['app_user', 'app_worker', 'app_queue', 'app_identity', 'app_memory'];

/** Roles that processes sign in as. The others own their functions and can't sign in. */
export const loginRoles: ReadonlySet<string> = new Set(['app_user', 'app_worker']);

/** A worker acts as one user after its claim. */
export const expectedMemberships: ReadonlySet<string> = new Set(['app_worker is a member of app_user']);

/** Tables whose rows are no user's: no user may see them. */
export const tablesOfNobody: ReadonlySet<string> = new Set([
  // Processes by heartbeat; only the engine looks at them.
  'workers',
  'worker_places',
  // Which migrations ran; only migrations look at it.
  'schema_migrations',
]);

/** Policies beside a user's own rows: each shows every row to a role that no process signs in as. */
const exceptions: Record<string, string[]> = {
  // A token is turned into a user before any user is known. Upkeep finds over all users whose events are due for removal.
  users: [everyRow('sign_in', 'ALL', 'app_identity'), everyRow('engine', 'SELECT', 'app_queue')],
  // A claim picks the next task over all users; grants keep it to ids, states and counts.
  tenants: [everyRow('engine', 'ALL', 'app_queue')],
  lanes: [everyRow('engine', 'ALL', 'app_queue')],
  tasks: [everyRow('engine', 'ALL', 'app_queue')],
  workers: [everyRow('engine', 'ALL', 'app_queue')],
  worker_places: [everyRow('engine', 'ALL', 'app_queue')],
  // A job is ended in a batch of many users' only when no task waits for it.
  task_dependencies: [everyRow('engine', 'SELECT', 'app_queue')],
  // Upkeep finds over all users which approvals have expired and which sessions are due for removal.
  approvals: [everyRow('engine', 'SELECT', 'app_queue')],
  sessions: [everyRow('engine', 'SELECT', 'app_queue')],
  // Upkeep finds over all users whose secrets an old key sealed, and which calls between agents have ended.
  tools: [everyRow('engine', 'SELECT', 'app_queue')],
  mcp_servers: [everyRow('engine', 'SELECT', 'app_queue')],
  agent_calls: [everyRow('engine', 'SELECT', 'app_queue')],
  // Counts are kept by triggers. Upkeep finds over all users which memories are orphaned, unused or aging.
  memories: [everyRow('engine', 'ALL', 'app_queue')],
  agents: [everyRow('engine', 'SELECT', 'app_queue')],
  // An index of words is used only where no policy comes before it: the function that uses it names the caller itself.
  memory_chunks: [everyRow('search', 'SELECT', 'app_memory')],
  memory_documents: [everyRow('search', 'SELECT', 'app_memory')],
};

function everyRow(name: string, command: 'ALL' | 'SELECT', role: string): string {
  return `${name} PERMISSIVE ${command} TO ${role} USING (true) WITH CHECK (${command === 'ALL' ? 'true' : ''})`;
}

/** The policies of a table, whose rows belong to the user in that column, or to nobody. */
export function expectedPolicies(table: string, ownerColumn: string | null): string[] {
  const own = `(${ownerColumn} = ( SELECT app.user_id() AS user_id))`;
  return [
    ...(ownerColumn === null ? [] : [`own_rows PERMISSIVE ALL TO app_user USING (${own}) WITH CHECK (${own})`]),
    ...(exceptions[table] ?? []),
  ];
}

/** What sign-in may do with users, and with no other table: find one by its token, and make one. */
export const identityColumns: Record<string, readonly string[]> = {
  SELECT: ['id', 'issuer', 'subject'],
  INSERT: ['issuer', 'subject'],
};

/** Tables of the engine itself. They hold ids, counts and times only. */
export const engineTables: ReadonlySet<string> = new Set(['tenants', 'lanes', 'workers', 'worker_places', 'memories']);

/** Columns of other tables that the engine may read: never a text that anyone wrote. */
export const engineReads: Record<string, readonly string[]> = {
  tasks: [
    ...['user_id', 'id', 'kind', 'lane_id', 'session_id', 'state', 'session_order', 'attempt', 'crashes', 'worker_id'],
    ...['due_at', 'started_at'],
    // Where a row stands: a claim changes what it has locked without looking for it again.
    'ctid',
  ],
  task_dependencies: ['user_id', 'parent_id'],
  users: ['id', 'event_sequence', 'events_checked_sequence', 'events_checked_at', 'has_many_events'],
  approvals: ['user_id', 'id', 'state', 'expires_at'],
  sessions: ['user_id', 'id', 'expires_at'],
  tools: ['user_id', 'id', 'secrets_key_id'],
  mcp_servers: ['user_id', 'id', 'secrets_key_id'],
  agent_calls: ['user_id', 'task_id', 'caller_task_id', 'settled_at'],
  agents: ['user_id', 'id', 'memory_max_age_days'],
};

/** What the search by words may read: words and what can be filtered by, and no table beside these. */
export const searchReads: Record<string, readonly string[]> = {
  memory_chunks: ['user_id', 'id', 'memory_id', 'document_id', 'words'],
  memory_documents: ['user_id', 'id', 'source', 'path', 'kind', 'updated_at'],
};

/** Columns of other tables that the engine may change. */
export const engineWrites: Record<string, readonly string[]> = {
  tasks: ['state', 'attempt', 'crashes', 'worker_id', 'due_at', 'started_at', 'progress', 'finished_at'],
};

/** Indexes of user tables that do not start with the user. */
export const expectedIndexes: ReadonlySet<string> = new Set([
  // Sign-in looks a user up by token, and there is no user yet.
  'users_issuer_subject_key',
  // The engine finds over all users: whose turn it is, what a dead worker held, which retries are due.
  'tenants_ready_idx',
  'tasks_worker_id_idx',
  'tasks_retry_due_idx',
  // Operators see over all users how many tasks are held.
  'tasks_held_idx',
  // Upkeep finds over all users which approvals and sessions expired and whose events are due for removal.
  'approvals_expiry_idx',
  'sessions_expires_at_idx',
  'users_events_checked_at_idx',
  // Upkeep finds over all users whose secrets an old key sealed.
  'tools_secrets_key_id_idx',
  'mcp_servers_secrets_key_id_idx',
  // Upkeep finds over all users which memories are due for something.
  'memories_orphaned_idx',
  'memories_used_at_idx',
  'memories_pruned_at_idx',
  // Each chunk has a word that only its memory's chunks have, and every search asks for that word too.
  'memory_chunks_words_idx',
]);

/** What such functions may set beside what they must: how plans are made, and nothing that decides what is seen. */
export const allowedSettings =
  /^(search_path=|plan_cache_mode=force_(generic|custom)_plan$|enable_(seqscan|sort)=off$|(random_page|cpu_index_tuple)_cost=[\d.]+$)/;

/** Functions that run with their owner's rights: whose they are and who may call them. */
export const expectedDefiners: readonly [RegExp, owner: string, callers: string[]][] = [
  [/^app\.sign_in\(text,text\)$/, 'app_identity', ['app_user']],
  [/^app\.search_words\(.+\)$/, 'app_memory', ['app_user']],
  [
    /^queue\.(orphaned_memories|unused_memories|excess_memories|aging_memories|memory_totals)\(.*\)$/,
    'app_queue',
    ['app_worker'],
  ],
  [
    /^queue\.(claim|offer|complete|heartbeat|rescue|put_back|retire|leads|stuck|census|expired_approvals|expired_sessions|users_to_trim|secrets_to_reseal|calls_to_settle)\(.+\)$/,
    'app_queue',
    ['app_worker'],
  ],
  // A new task is given to a worker at once: of all workers' rows it tells the id of the one it took, and nothing of any task.
  [/^queue\.take_worker\(uuid,text,text\)$/, 'app_queue', ['app_user']],
  // Triggers and what they call.
  [/^queue\.(add_tenant|count_(tasks|lanes|bytes|documents)_after_(insert|update|delete))\(\)$/, 'app_queue', []],
];
