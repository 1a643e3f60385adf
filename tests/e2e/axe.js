// What axe-core finds on a page that keeps somebody out of it: where, and what it is called.
axe.run(document, { resultTypes: ["violations"] }).then((found) =>
  found.violations
    .filter((fault) => ["serious", "critical"].includes(fault.impact))
    .map((fault) => `${fault.id}: ${fault.nodes.map((node) => node.target).join(", ")}`)
);
