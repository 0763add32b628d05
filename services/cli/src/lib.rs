//! The operator's and the tenant's tool; starts all of hotcell on one machine.
