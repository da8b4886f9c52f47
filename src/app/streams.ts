import type { Log } from '../adapters/log.ts';
import type { Database } from '../adapters/postgres.ts';
import type { Config } from '../config.ts';
import { toClientError } from '../graphql-errors.ts';
import type { FeedResources } from '../services/event-feed.ts';
import { EventFeeds } from '../services/event-feeds.ts';
import { StreamHub } from '../streams/hub.ts';
import { describeFault } from '../streams/plugin.ts';

/** The event streams of an API process: what its users' readers are told, and who may read. */
export function createStreams(
  config: Config,
  resources: FeedResources & { database: Database; log: Log },
): { feeds: EventFeeds; streams: StreamHub } {
  const feeds = new EventFeeds(resources);
  const streams = new StreamHub({
    feeds,
    heartbeatInterval: config.HEARTBEAT_INTERVAL,
    pollInterval: config.EVENT_POLL_INTERVAL,
    limits: {
      perUser: config.STREAMS_PER_USER,
      perNode: config.STREAMS_PER_NODE,
      differentPerUser: config.DIFFERENT_STREAMS_PER_USER,
      bytes: config.STREAM_BUFFER_BYTES,
      events: config.STREAM_BUFFER_EVENTS,
    },
    describeFault: (error) => describeFault((fault, id) => toClientError(fault, () => resources.log, id), error),
  });
  return { feeds, streams };
}
