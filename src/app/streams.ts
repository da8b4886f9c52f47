import type { Log } from '../adapters/log.ts';
import type { Metrics } from '../adapters/metrics.ts';
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
  resources: FeedResources & { database: Database; log: Log; metrics: Metrics },
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
  watchStreams(resources.metrics, streams);
  return { feeds, streams };
}

/** A scrape asks for many figures at once: they are gathered once, within so many milliseconds. */
const sameScrape = 100;

function watchStreams(metrics: Metrics, hub: StreamHub): void {
  let latest = { at: Number.NEGATIVE_INFINITY, stats: hub.stats() };
  const stats = (): typeof latest.stats => {
    const now = performance.now();
    if (now - latest.at > sameScrape) {
      latest = { at: now, stats: hub.stats() };
    }
    return latest.stats;
  };
  metrics.streams.watch({}, () => stats().connections);
  metrics.streamUsers.watch({}, () => stats().users);
  metrics.streamGroups.watch({}, () => stats().groups);
  metrics.eventsDelivered.watch({}, () => stats().delivered);
  metrics.eventBytes.watch({}, () => stats().deliveredBytes);
  metrics.eventExecutions.watch({}, () => stats().executed);
  metrics.eventCatchUps.watch({}, () => stats().catchUpReads);
  metrics.streamsEnded.watch({ reason: 'slow' }, () => stats().dropped);
  metrics.streamsEnded.watch({ reason: 'refused' }, () => stats().refused);
  metrics.watchEventLag(() => stats().lag);
}
