import { ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { queryObjects } from 'node:v8';
import { createLog } from '../../src/adapters/log.ts';
import { startApi } from '../../src/app.ts';
import { readConfig } from '../../src/config.ts';
import { EventFeed } from '../../src/services/event-feed.ts';
import { EventReading } from '../../src/services/event-reading.ts';
import { Connection } from '../../src/streams/connection.ts';
import { Delivery } from '../../src/streams/delivery.ts';
import { Group } from '../../src/streams/group.ts';

/** What an API process holds when all garbage is collected. */
export interface Held {
  /** Objects of streams that are left, by class. */
  objects: Record<string, number>;
  /** Open sockets, timers and the like, by kind. */
  resources: Record<string, number>;
  heap: number;
}

const classes = { Connection, Delivery, Group, EventFeed, EventReading, ServerResponse, Socket };

function look(): Held {
  // Counting collects all garbage first.
  const objects = Object.entries(classes).map(([name, one]) => [name, Number(queryObjects(one, { format: 'count' }))]);
  const resources: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) {
    resources[kind] = (resources[kind] ?? 0) + 1;
  }
  return { objects: Object.fromEntries(objects), resources, heap: process.memoryUsage().heapUsed };
}

// The API in a process of its own, whose memory a test may look at.
const config = readConfig(process.env);
const api = await startApi(config, createLog({ level: config.LOG_LEVEL }));
process.on('message', (question) => {
  process.send?.(question === 'look' ? look() : { url: api.url });
});
process.on('disconnect', () => process.exit());
process.send?.({ url: api.url });
