"""The daemon: decides what happens to an event (`bus`), carries it out (`broker`), serves commands (`command`)."""
