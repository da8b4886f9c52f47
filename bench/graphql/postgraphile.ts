import { createServer } from 'node:http';
import pg from 'pg';
import { postgraphile } from 'postgraphile';
import { makePgService } from 'postgraphile/adaptors/pg';
import { grafserv } from 'postgraphile/grafserv/node';
import { PostGraphileAmberPreset } from 'postgraphile/presets/amber';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { createSameAuthentication, poolSize, type ServerReady, type ServerSettings } from './settings.ts';

// PostGraphile 5 over the same tables, policies and role, set up for production.
runChild<ServerSettings, ServerReady>(async (settings) => {
  const pool = new pg.Pool({ connectionString: settings.databaseUrl, max: poolSize });
  const authenticate = createSameAuthentication(settings, pool);
  const instance = postgraphile({
    extends: [PostGraphileAmberPreset],
    // Otherwise an order is offered only where a column leads an index by itself.
    disablePlugins: ['PgIndexBehaviorsPlugin'],
    pgServices: [makePgService({ pool, schemas: ['public'], pubsub: false })],
    grafserv: {
      watch: false,
      graphiql: false,
      graphiqlOnGraphQLGET: false,
      websockets: false,
      outputDataAsString: true,
    },
    grafast: {
      explain: false,
      context: async ({ node }) => {
        const { userId } = await authenticate(node?.req.headers.authorization ?? null);
        return { pgSettings: { 'app.user_id': userId } };
      },
    },
  });
  const server = createServer();
  await instance.createServ(grafserv).addTo(server);
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/graphql` },
    commands: {},
    stop: async () => {
      server.close();
      server.closeAllConnections();
      await instance.release();
      await pool.end();
    },
  };
});
