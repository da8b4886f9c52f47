/** Ways to break the separation of users, each with what the audit of the catalog must say of it. */
export const catalogFaults: readonly [what: string, sql: string, finding: string | RegExp][] = [
  [
    'a policy is gone',
    'DROP POLICY own_rows ON messages',
    /^messages: lacks the policy own_rows PERMISSIVE ALL TO app_user/,
  ],
  ['row-level security is off', 'ALTER TABLE tools DISABLE ROW LEVEL SECURITY', 'tools: row-level security is off'],
  ['the owner is let past', 'ALTER TABLE plans NO FORCE ROW LEVEL SECURITY', 'plans: row-level security is not forced'],
  [
    'a policy lets everyone read',
    'ALTER POLICY own_rows ON sessions USING (true)',
    /^sessions: has the policy own_rows .*USING \(true\)/,
  ],
  [
    'a policy lets everyone write',
    'ALTER POLICY own_rows ON sessions WITH CHECK (true)',
    /^sessions: has the policy own_rows .*WITH CHECK \(true\)/,
  ],
  [
    'a policy is for everyone',
    'ALTER POLICY own_rows ON events TO PUBLIC',
    /^events: has the policy own_rows .*TO PUBLIC/,
  ],
  [
    'a second policy widens the first',
    'CREATE POLICY shared ON agents FOR SELECT TO app_user USING (true)',
    /^agents: has the policy shared PERMISSIVE SELECT TO app_user USING \(true\)/,
  ],
  [
    'the engine sees one table more',
    'CREATE POLICY engine ON messages TO app_queue USING (true)',
    /^messages: has the policy engine/,
  ],
  [
    'a policy asks by another setting',
    `ALTER POLICY own_rows ON agents USING (user_id = current_setting('app.other')::uuid)`,
    /^agents: has the policy own_rows .*app\.other/,
  ],
  [
    'workers are shown to users',
    'CREATE POLICY own_rows ON workers TO app_user USING (true)',
    /^workers: has the policy own_rows/,
  ],
  [
    'workers are granted to users',
    'GRANT SELECT ON workers TO app_user',
    'app_user: has SELECT on workers, which belongs to no user',
  ],
  [
    'a new table has no security',
    'CREATE TABLE notes (user_id uuid NOT NULL, PRIMARY KEY (user_id))',
    'notes: row-level security is off',
  ],
  [
    'a new table has no user',
    `CREATE TABLE notes (id uuid PRIMARY KEY)`,
    'notes: has no required user_id of type uuid',
  ],
  [
    'a new table may lack its user',
    `CREATE TABLE notes (user_id uuid); SELECT app.isolate('notes')`,
    'notes: has no required user_id of type uuid',
  ],
  [
    'a view reads as its owner',
    'CREATE VIEW everyone AS SELECT * FROM users',
    'public.everyone: a view or foreign table answers past the policies of its tables',
  ],
  ['a table stands elsewhere', 'CREATE TABLE queue.notes (user_id uuid)', 'queue.notes: a table outside of public'],
  [
    'a foreign key leaves the user out',
    'ALTER TABLE agents ADD UNIQUE (id); ALTER TABLE plans ADD CONSTRAINT plans_agent_fkey FOREIGN KEY (session_id) REFERENCES agents (id) NOT VALID',
    'plans: the foreign key plans_agent_fkey to agents does not carry the user',
  ],
  [
    'a foreign key crosses the user with another column',
    'ALTER TABLE agent_tools ADD CONSTRAINT crossed FOREIGN KEY (agent_id, user_id) REFERENCES agents (user_id, id) NOT VALID',
    'agent_tools: the foreign key crossed to agents does not carry the user',
  ],
  [
    'a foreign key leads to a table of nobody',
    'ALTER TABLE tasks ADD CONSTRAINT tasks_worker_fkey FOREIGN KEY (worker_id) REFERENCES workers',
    'tasks: the foreign key tasks_worker_fkey to workers does not carry the user',
  ],
  [
    'an index starts elsewhere',
    'CREATE INDEX messages_created_at_idx ON messages (created_at)',
    'messages: the index messages_created_at_idx does not start with the user',
  ],
  [
    'a unique index spans users',
    'CREATE UNIQUE INDEX agents_name_key ON agents (lower(name))',
    /^agents: the unique index agents_name_key spans users/,
  ],
  ['an exception is left over', 'DROP INDEX tasks_retry_due_idx', 'tasks_retry_due_idx: an exception for no index'],
  ['a role is let past policies', 'ALTER ROLE app_user BYPASSRLS', 'app_user: has BYPASSRLS'],
  ['a role is a superuser', 'ALTER ROLE app_worker SUPERUSER', 'app_worker: has SUPERUSER'],
  ['a role of functions may sign in', 'ALTER ROLE app_queue LOGIN', 'app_queue: may sign in'],
  [
    'a role is a member of the owner',
    `DO $$ BEGIN EXECUTE format('GRANT %I TO app_user', current_user); END $$`,
    /^app_user is a member of /,
  ],
  ['a role is a member of the engine', 'GRANT app_queue TO app_user', 'app_user is a member of app_queue'],
  [
    'a role owns a table',
    'GRANT CREATE ON SCHEMA public TO app_user; ALTER TABLE agents OWNER TO app_user',
    'app_user: owns the relation agents',
  ],
  [
    'the engine owns a table',
    'GRANT CREATE ON SCHEMA public TO app_queue; ALTER TABLE tasks OWNER TO app_queue',
    'app_queue: owns the relation tasks',
  ],
  [
    'a role may empty a table',
    'GRANT TRUNCATE ON messages TO app_user',
    'app_user: has TRUNCATE on messages, which no policy holds back',
  ],
  [
    'a role may probe by reference',
    'GRANT REFERENCES ON agents TO app_user',
    'app_user: has REFERENCES on agents, which no policy holds back',
  ],
  [
    'a role may pass its rights on',
    'GRANT SELECT ON agents TO app_user WITH GRANT OPTION',
    'app_user: has SELECT on agents and may pass it on',
  ],
  ['everyone may read a table', 'GRANT SELECT ON agents TO PUBLIC', 'PUBLIC: has SELECT on agents'],
  [
    'a role may read the migrations',
    'GRANT SELECT ON schema_migrations TO app_user',
    'app_user: has SELECT on schema_migrations',
  ],
  [
    'the engine may read a text',
    'GRANT SELECT (error_message) ON tasks TO app_queue',
    'app_queue: has SELECT on tasks.error_message',
  ],
  ['the engine may read messages', 'GRANT SELECT ON messages TO app_queue', 'app_queue: has SELECT on messages'],
  [
    'sign-in may read more of a user',
    'GRANT SELECT (created_at) ON users TO app_identity',
    'app_identity: has SELECT on users.created_at',
  ],
  [
    'a role may create functions',
    'GRANT CREATE ON SCHEMA public TO app_user',
    'app_user: may create in the schema public',
  ],
  [
    'everyone may create functions',
    'GRANT CREATE ON SCHEMA public TO PUBLIC',
    'app_worker: may create in the schema public',
  ],
  [
    'later tables are granted unseen',
    'ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app_user',
    'app_user: gets default privileges',
  ],
  [
    'a definer has no fixed search_path',
    'ALTER FUNCTION queue.retire(uuid) RESET search_path',
    'queue.retire(uuid): has no fixed search_path',
  ],
  [
    'a definer looks into temporary tables first',
    'ALTER FUNCTION queue.retire(uuid) SET search_path = pg_temp, public',
    'queue.retire(uuid): has no fixed search_path',
  ],
  [
    'a definer is for everyone',
    'GRANT EXECUTE ON FUNCTION queue.claim(uuid, integer, text[]) TO PUBLIC',
    'queue.claim(uuid,integer,text[]): may be called by PUBLIC',
  ],
  [
    'users may claim',
    'GRANT EXECUTE ON FUNCTION queue.claim(uuid, integer, text[]) TO app_user',
    'queue.claim(uuid,integer,text[]): may be called by app_user',
  ],
  [
    'a definer runs as the owner',
    'ALTER FUNCTION app.sign_in(text, text) OWNER TO CURRENT_USER',
    /^app\.sign_in\(text,text\): runs as /,
  ],
  [
    'a new definer appears',
    `CREATE FUNCTION app.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM public.users'`,
    'app.peek(): may be called by PUBLIC',
  ],
  [
    'a role starts as a user',
    `ALTER ROLE app_user SET app.user_id = '00000000-0000-7000-8000-000000000000'`,
    /^a stored setting of a role or database names a user/,
  ],
  [
    'the user is read from elsewhere',
    `CREATE OR REPLACE FUNCTION app.user_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT NULL::uuid'`,
    'app.user_id(): does not give the user that the transaction named',
  ],
];
