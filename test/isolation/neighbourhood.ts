import pg from 'pg';
import { dumpRows, readTableShapes, type TableShape } from '../database/rows.ts';
import { startTestService, type TestService } from '../service.ts';
import type { Trial } from './foreign-value.ts';
import { type Ask, createWorld, type World } from './world.ts';

export interface Neighbour {
  ask: Ask;
  world: World;
}

/** A service whose users live next to each other. No worker runs: what changes was changed by a request. */
export interface Neighbourhood {
  service: TestService;
  /** Past every policy: to arrange and to look. */
  owner: pg.Client;
  tables: TableShape[];
  /** A user with a world of their own, made after all others. */
  newcomer(name: string): Promise<Neighbour>;
  /** What the caller tries on the stranger, asked as the caller or in another way. */
  trial(caller: Neighbour, stranger: Neighbour, ask?: Ask): Trial;
  stop(): Promise<void>;
}

export async function openNeighbourhood(): Promise<Neighbourhood> {
  const service = await startTestService({ worker: false });
  const owner = new pg.Client({ connectionString: service.database.ownerUrl });
  await owner.connect();
  const tables = await readTableShapes(owner);
  let users = 0;
  return {
    service,
    owner,
    tables,
    newcomer: async (name) => {
      users += 1;
      const { ask } = await service.user(`${name} ${users}`);
      return { ask, world: await createWorld(ask, `${name} ${users}`, (...statement) => owner.query(...statement)) };
    },
    trial: (caller, stranger, ask = caller.ask) => ({
      ask,
      caller: caller.world,
      stranger: stranger.world,
      dump: () => dumpRows(owner, tables, [caller.world.userId, stranger.world.userId]),
    }),
    stop: async () => {
      await owner.end();
      await service.stop();
    },
  };
}
