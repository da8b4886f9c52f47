import ipaddr from 'ipaddr.js';

/** Global unicast, the only part of IPv6 in which public hosts live (https://www.rfc-editor.org/rfc/rfc4291#section-2.4). */
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3');
/** Public in form, but the service of a cloud that answers the machines inside it. */
const metadataAddresses = new Set(['168.63.129.16']);

/**
 * Whether an address belongs to the public internet: not private, loopback, link-local (where clouds keep their
 * metadata), shared by a carrier, multicast or reserved, and no IPv6 form that hides or is translated to an IPv4 address
 * (https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry).
 */
export function isPublicAddress(address: string): boolean {
  const bare = address.startsWith('[') ? address.slice(1, -1) : address;
  if (!ipaddr.isValid(bare) || metadataAddresses.has(bare)) {
    return false;
  }
  const parsed = ipaddr.parse(bare);
  if (parsed.range() !== 'unicast') {
    return false;
  }
  return parsed.kind() === 'ipv4' || (parsed as ipaddr.IPv6).match(globalUnicast);
}

/** Whether the host of a URL is an address by itself, which no name service is asked about. */
export function isAddress(host: string): boolean {
  return host.startsWith('[') || ipaddr.IPv4.isValidFourPartDecimal(host);
}
