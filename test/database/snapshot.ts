import type pg from 'pg';

/** Where our own things live: everything but Postgres' schemas and the list of migrations that ran. */
const ours = `nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'`;
const ourRelations = `pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
  WHERE ${ours} AND relname NOT LIKE 'schema_migrations%'`;

/** All that a migration can make, one line each: two databases with equal lines have equal schemas. */
export async function snapshotSchema(client: Pick<pg.ClientBase, 'query'>): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(`
    SELECT format('schema %s owner %s privileges %s', nspname, nspowner::regrole, nspacl) AS line FROM pg_namespace WHERE ${ours}
    UNION ALL
    SELECT format('type %s %s values %s', typtype, pg_type.oid::regtype,
      ARRAY (SELECT enumlabel FROM pg_enum WHERE enumtypid = pg_type.oid ORDER BY enumsortorder))
    FROM pg_type JOIN pg_namespace ON pg_namespace.oid = typnamespace
    WHERE ${ours} AND typtype <> 'c' AND typelem = 0
    UNION ALL
    SELECT format('relation %s %s owner %s privileges %s security %s forced %s',
      relkind, pg_class.oid::regclass, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity) FROM ${ourRelations}
    UNION ALL
    SELECT format('column %s.%s %s required %s default %s privileges %s', attrelid::regclass, attname,
      format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attacl)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (SELECT pg_class.oid FROM ${ourRelations})
    UNION ALL
    SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid IN (SELECT pg_class.oid FROM ${ourRelations})
    UNION ALL
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (SELECT pg_class.oid FROM ${ourRelations})
    UNION ALL
    SELECT pg_get_triggerdef(oid) FROM pg_trigger
    WHERE NOT tgisinternal AND tgrelid IN (SELECT pg_class.oid FROM ${ourRelations})
    UNION ALL
    SELECT format('policy %s %s %s %s %s %s', polrelid::regclass, polname, polcmd, polroles::regrole[],
      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
    UNION ALL
    SELECT format('function owner %s privileges %s %s', proowner::regrole, proacl, pg_get_functiondef(pg_proc.oid))
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace WHERE ${ours}
    ORDER BY line`);
  return rows.map((row) => row.line);
}
