import { type Database, statement } from './postgres.ts';

interface Reach extends Record<string, unknown> {
  role: string;
  superuser: boolean;
  bypass: boolean;
  /** Tables that the role owns. */
  owned: string[];
  /** Tables whose policies show the role every row. */
  open: string[];
}

const reach = statement<Reach>(`
  SELECT roles.rolname AS role, roles.rolsuper AS superuser, roles.rolbypassrls AS bypass,
    ARRAY (
      SELECT pg_class.oid::regclass::text FROM pg_class
      WHERE pg_class.relowner = roles.oid AND pg_class.relkind IN ('r', 'p')
      ORDER BY 1 LIMIT 5
    ) AS owned,
    ARRAY (
      SELECT pg_policy.polrelid::regclass::text FROM pg_policy
      WHERE roles.oid = ANY (pg_policy.polroles) AND pg_get_expr(pg_policy.polqual, pg_policy.polrelid) = 'true'
      ORDER BY 1 LIMIT 5
    ) AS open
  FROM pg_roles AS roles
  WHERE pg_has_role(current_user, roles.oid, 'MEMBER')
  ORDER BY roles.rolname <> current_user, roles.rolname`);

/** Refuses a database role that could see past row-level security, by itself or by a role it may take on. */
export async function assertConfinedRole(database: Database): Promise<void> {
  for (const role of await database.query(reach)) {
    const reason = reasonAgainst(role);
    if (reason !== null) {
      throw new Error(
        `Refusing to start: the database role "${role.role}" ${reason}, so row-level security would not hold for it. ` +
          'Connect as app_user (API) or app_worker (worker).',
      );
    }
  }
}

function reasonAgainst({ superuser, bypass, owned, open }: Reach): string | null {
  if (superuser) {
    return 'is a superuser';
  }
  if (bypass) {
    return 'has BYPASSRLS';
  }
  if (owned.length > 0) {
    return `owns tables (${owned.join(', ')})`;
  }
  return open.length > 0 ? `sees the rows of all users (${open.join(', ')})` : null;
}
