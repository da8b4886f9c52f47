import type pg from 'pg';
import {
  allowedSettings,
  engineReads,
  engineTables,
  engineWrites,
  expectedDefiners,
  expectedIndexes,
  expectedMemberships,
  expectedPolicies,
  identityColumns,
  loginRoles,
  searchReads,
  serviceRoles,
  tablesOfNobody,
} from './catalog-rules.ts';

type Client = Pick<pg.ClientBase, 'query'>;

/** Schemas that are not Postgres' own. */
const ours = `nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'`;

/**
 * Reads from the catalog whether the database keeps users apart, and returns one line for each thing that is not as
 * catalog-rules.ts has it; none when all is well. It asks for tables that it has never heard of just the same.
 */
export async function auditCatalog(client: Client): Promise<string[]> {
  const findings: string[] = [];
  for (const audit of [
    auditRelations,
    auditPolicies,
    auditOwners,
    auditRoles,
    auditTablePrivileges,
    auditSchemaPrivileges,
    auditForeignKeys,
    auditIndexes,
    auditDefiners,
    auditCaller,
  ]) {
    findings.push(...(await audit(client)));
  }
  return findings;
}

/** The column that says whose a row is, or null for a table of nobody. */
function ownerColumn(table: string): 'id' | 'user_id' | null {
  return tablesOfNobody.has(table) ? null : table === 'users' ? 'id' : 'user_id';
}

async function auditRelations(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ schema: string; name: string; kind: string; on: boolean; forced: boolean }>(`
    SELECT nspname AS schema, relname AS name, relkind AS kind, relrowsecurity AS on, relforcerowsecurity AS forced
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE ${ours} AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2`);
  const columns = await client.query<{ name: string; type: string; required: boolean }>(`
    SELECT attrelid::regclass::text AS name, format_type(atttypid, NULL) AS type, attnotnull AS required
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
      AND attname = CASE relname WHEN 'users' THEN 'id' ELSE 'user_id' END`);
  return rows.flatMap(({ schema, name, kind, on, forced }) => {
    if (kind !== 'r' && kind !== 'p') {
      return [`${schema}.${name}: a view or foreign table answers past the policies of its tables`];
    }
    if (schema !== 'public') {
      return [`${schema}.${name}: a table outside of public`];
    }
    if (name === 'schema_migrations') {
      return [];
    }
    const owner = columns.rows.find((column) => column.name === name);
    return [
      ...(on ? [] : [`${name}: row-level security is off`]),
      ...(forced ? [] : [`${name}: row-level security is not forced`]),
      ...(ownerColumn(name) === null || (owner?.type === 'uuid' && owner.required)
        ? []
        : [`${name}: has no required ${ownerColumn(name)} of type uuid`]),
    ];
  });
}

async function auditPolicies(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ table: string; policies: string[] }>(`
    SELECT relname AS table, ARRAY (
        SELECT format('%s %s %s TO %s USING (%s) WITH CHECK (%s)', polname,
          CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
          CASE polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
          (SELECT string_agg(coalesce(rolname, 'PUBLIC'), ', ' ORDER BY rolname)
            FROM unnest(polroles) AS role (id) LEFT JOIN pg_roles ON pg_roles.oid = role.id),
          pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
        FROM pg_policy WHERE polrelid = pg_class.oid ORDER BY polname
      ) AS policies
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1`);
  return rows.flatMap(({ table, policies }) => {
    const expected = expectedPolicies(table, ownerColumn(table));
    return [
      ...expected
        .filter((policy) => !policies.includes(policy))
        .map((policy) => `${table}: lacks the policy ${policy}`),
      ...policies.filter((policy) => !expected.includes(policy)).map((policy) => `${table}: has the policy ${policy}`),
    ];
  });
}

/** An owner is past its own tables' policies or may switch them off. */
async function auditOwners(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ role: string; owned: string }>(
    `
    SELECT rolname AS role, owned FROM (
      SELECT relowner AS owner, 'relation ' || pg_class.oid::regclass AS owned FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE ${ours}
      UNION ALL SELECT nspowner, 'schema ' || nspname FROM pg_namespace
      UNION ALL SELECT datdba, 'database' FROM pg_database WHERE datname = current_database()
      UNION ALL SELECT proowner, 'function ' || pg_proc.oid::regprocedure FROM pg_proc
    ) AS things JOIN pg_roles ON pg_roles.oid = things.owner
    WHERE rolname = ANY ($1) ORDER BY 1, 2`,
    [serviceRoles],
  );
  return rows
    .filter(({ role, owned }) => loginRoles.has(role) || !owned.startsWith('function '))
    .map(({ role, owned }) => `${role}: owns the ${owned}`);
}

async function auditRoles(client: Client): Promise<string[]> {
  const roles = await client.query<{ role: string; powers: string[]; login: boolean }>(
    `SELECT rolname AS role, rolcanlogin AS login, array_remove(ARRAY[
        CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
        CASE WHEN rolcreaterole THEN 'CREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' END,
        CASE WHEN rolreplication THEN 'REPLICATION' END], NULL) AS powers
      FROM pg_roles WHERE rolname = ANY ($1)`,
    [serviceRoles],
  );
  const memberships = await client.query<{ line: string }>(
    `SELECT DISTINCT format('%s is a member of %s', member.rolname, granted.rolname) AS line
      FROM pg_auth_members JOIN pg_roles AS member ON member.oid = pg_auth_members.member
      JOIN pg_roles AS granted ON granted.oid = roleid
      WHERE member.rolname = ANY ($1) ORDER BY 1`,
    [serviceRoles],
  );
  const found = new Map(roles.rows.map((row) => [row.role, row]));
  return [
    ...serviceRoles.filter((role) => !found.has(role)).map((role) => `${role}: there is no such role`),
    ...roles.rows.flatMap(({ role, powers }) => powers.map((power) => `${role}: has ${power}`)),
    ...roles.rows.filter(({ role, login }) => login && !loginRoles.has(role)).map(({ role }) => `${role}: may sign in`),
    ...memberships.rows.map(({ line }) => line).filter((line) => !expectedMemberships.has(line)),
  ];
}

async function auditTablePrivileges(client: Client): Promise<string[]> {
  const { rows } = await client.query<{
    role: string;
    table: string;
    column: string | null;
    privilege: string;
    grantable: boolean;
  }>(
    `
    SELECT coalesce(rolname, 'PUBLIC') AS role, relname AS table, attname AS column, privilege_type AS privilege,
      is_grantable AS grantable
    FROM (
      SELECT relname, relowner, NULL AS attname, relacl AS acl FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
      UNION ALL
      SELECT relname, relowner, attname, attacl FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attacl IS NOT NULL
    ) AS objects
    CROSS JOIN LATERAL aclexplode(acl) AS entry LEFT JOIN pg_roles ON pg_roles.oid = entry.grantee
    WHERE entry.grantee <> relowner AND (entry.grantee = 0 OR rolname = ANY ($1))
    ORDER BY 1, 2, 3, 4`,
    [serviceRoles],
  );
  const findings: string[] = [];
  for (const { role, table, column, privilege, grantable } of rows) {
    const what = `${role}: has ${privilege} on ${column === null ? table : `${table}.${column}`}`;
    if (grantable) {
      findings.push(`${what} and may pass it on`);
    }
    if (!['SELECT', 'INSERT', 'UPDATE', 'DELETE'].includes(privilege)) {
      findings.push(`${what}, which no policy holds back`);
    } else if (table === 'schema_migrations' || role === 'PUBLIC' || role === 'app_worker') {
      findings.push(what);
    } else if (role === 'app_user' && ownerColumn(table) === null) {
      findings.push(`${what}, which belongs to no user`);
    } else if (role === 'app_identity' && !identityMay(table, column, privilege)) {
      findings.push(what);
    } else if (role === 'app_queue' && !engineMay(table, column, privilege)) {
      findings.push(what);
    } else if (role === 'app_memory' && !searchMay(table, column, privilege)) {
      findings.push(what);
    }
  }
  return findings;
}

function identityMay(table: string, column: string | null, privilege: string): boolean {
  return table === 'users' && column !== null && identityColumns[privilege]?.includes(column) === true;
}

function searchMay(table: string, column: string | null, privilege: string): boolean {
  return privilege === 'SELECT' && column !== null && searchReads[table]?.includes(column) === true;
}

function engineMay(table: string, column: string | null, privilege: string): boolean {
  const columns = privilege === 'SELECT' ? engineReads[table] : privilege === 'UPDATE' ? engineWrites[table] : [];
  return engineTables.has(table) || (column !== null && columns?.includes(column) === true);
}

async function auditSchemaPrivileges(client: Client): Promise<string[]> {
  // Who may create in a schema on a definer's search_path could slip a table or function of its own under it.
  const { rows } = await client.query<{ line: string }>(
    `SELECT format('%s: may create in the schema %s', rolname, nspname) AS line FROM pg_roles CROSS JOIN pg_namespace
      WHERE ${ours} AND rolname = ANY ($1) AND has_schema_privilege(pg_roles.oid, pg_namespace.oid, 'CREATE')
      UNION ALL
      SELECT format('%s: may create schemas', rolname) FROM pg_roles
      WHERE rolname = ANY ($1) AND has_database_privilege(pg_roles.oid, current_database(), 'CREATE')
      UNION ALL
      SELECT format('%s: gets default privileges', coalesce(rolname, 'PUBLIC')) FROM pg_default_acl
      CROSS JOIN LATERAL aclexplode(defaclacl) AS entry LEFT JOIN pg_roles ON pg_roles.oid = entry.grantee
      WHERE entry.grantee = 0 OR rolname = ANY ($1)
      ORDER BY 1`,
    [[...loginRoles]],
  );
  return rows.map((row) => row.line);
}

async function auditForeignKeys(client: Client): Promise<string[]> {
  const { rows } = await client.query<{
    table: string;
    name: string;
    target: string;
    columns: string[];
    targetColumns: string[];
  }>(`
    SELECT source.relname AS table, conname AS name, target.relname AS target,
      ARRAY (SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS key (number, place)
        JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place) AS columns,
      ARRAY (SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS key (number, place)
        JOIN pg_attribute ON attrelid = confrelid AND attnum = number ORDER BY place) AS "targetColumns"
    FROM pg_constraint JOIN pg_class AS source ON source.oid = conrelid JOIN pg_class AS target ON target.oid = confrelid
    WHERE contype = 'f' ORDER BY 1, 2`);
  return rows.flatMap(({ table, name, target, columns, targetColumns }) => {
    const place = columns.indexOf(ownerColumn(table) ?? '');
    const carriesUser = place >= 0 && targetColumns[place] === ownerColumn(target);
    const isNobodys = tablesOfNobody.has(table) && tablesOfNobody.has(target);
    return carriesUser || isNobodys ? [] : [`${table}: the foreign key ${name} to ${target} does not carry the user`];
  });
}

async function auditIndexes(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ table: string; name: string; first: string | null; unique: boolean }>(`
    SELECT relname AS table, indexrelid::regclass::text AS name, indisunique AS unique,
      (SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0]) AS first
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE relnamespace = 'public'::regnamespace AND relname <> 'schema_migrations' ORDER BY 1, 2`);
  const found = new Set(rows.map((row) => row.name));
  return [
    ...[...expectedIndexes].filter((name) => !found.has(name)).map((name) => `${name}: an exception for no index`),
    ...rows
      .filter(({ table, name, first }) => {
        const column = ownerColumn(table);
        return column !== null && first !== column && !expectedIndexes.has(name);
      })
      .map(({ table, name, unique }) =>
        unique
          ? `${table}: the unique index ${name} spans users, so that a refusal tells of another's row`
          : `${table}: the index ${name} does not start with the user`,
      ),
  ];
}

async function auditDefiners(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ name: string; owner: string; settings: string[] | null; callers: string[] }>(`
    SELECT pg_proc.oid::regprocedure::text AS name, owner.rolname AS owner, proconfig AS settings,
      ARRAY (SELECT coalesce(caller.rolname::text, 'PUBLIC') FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS entry
        LEFT JOIN pg_roles AS caller ON caller.oid = entry.grantee WHERE entry.grantee <> proowner ORDER BY 1) AS callers
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace JOIN pg_roles AS owner ON owner.oid = proowner
    WHERE ${ours} AND prosecdef ORDER BY 1`);
  return rows.flatMap(({ name, owner, settings, callers }) => {
    const [, expectedOwner, expectedCallers] = expectedDefiners.find(([pattern]) => pattern.test(name)) ?? [];
    return [
      ...(owner === expectedOwner ? [] : [`${name}: runs as ${owner}`]),
      ...(settings?.includes('search_path=pg_catalog, public, pg_temp') ? [] : [`${name}: has no fixed search_path`]),
      ...(settings ?? [])
        .filter((setting) => !allowedSettings.test(setting))
        .map((setting) => `${name}: sets ${setting}`),
      ...callers
        .filter((caller) => expectedCallers?.includes(caller) !== true)
        .map((caller) => `${name}: may be called by ${caller}`),
    ];
  });
}

/** Who the caller is: every policy asks this function, and the setting lives as long as its transaction. */
async function auditCaller(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ sound: boolean }>(`
    SELECT prosrc = $$ SELECT nullif(current_setting('app.user_id', true), '')::uuid $$ AND NOT prosecdef AS sound
    FROM pg_proc WHERE oid = to_regprocedure('app.user_id()')`);
  const settings = await client.query<{ line: string }>(`
    SELECT format('a stored setting of a role or database names a user: %s', setting) AS line
    FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) AS setting
    WHERE setting LIKE 'app.%' ORDER BY 1`);
  return [
    ...(rows[0]?.sound === true ? [] : ['app.user_id(): does not give the user that the transaction named']),
    ...settings.rows.map((row) => row.line),
  ];
}
