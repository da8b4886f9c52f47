import { type Database, statement } from './postgres.ts';

const reach = statement<{ role: string; superuser: boolean; bypass: boolean; tables: string[] }>(`
  SELECT roles.rolname AS role, roles.rolsuper AS superuser, roles.rolbypassrls AS bypass,
    ARRAY (
      SELECT pg_class.oid::regclass::text FROM pg_class
      WHERE pg_class.relowner = roles.oid AND pg_class.relkind IN ('r', 'p')
      ORDER BY 1 LIMIT 5
    ) AS tables
  FROM pg_roles AS roles
  WHERE pg_has_role(current_user, roles.oid, 'MEMBER')`);

/** Refuses a database role that could see past row-level security, by itself or by a role it may take on. */
export async function assertConfinedRole(database: Database): Promise<void> {
  for (const { role, superuser, bypass, tables } of await database.query(reach)) {
    const reason = superuser
      ? 'is a superuser'
      : bypass
        ? 'has BYPASSRLS'
        : tables.length > 0
          ? `owns tables (${tables.join(', ')})`
          : null;
    if (reason !== null) {
      throw new Error(
        `Refusing to start: the database role "${role}" ${reason}, so row-level security would not hold for it. ` +
          'Connect as app_user (API) or app_worker (worker).',
      );
    }
  }
}
