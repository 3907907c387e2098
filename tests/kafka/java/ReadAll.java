import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads topics from their first to their last offset through a broker: ReadAll ADDRESS ISOLATION TOPIC... A JSON object a record, in the
 * order of topic (as named), partition and offset: {"topic","partition","offset","timestamp","key","value","headers"}. Key, value and the
 * values of headers are base64 or null; headers are pairs of name and value in their stored order.
 */
public class ReadAll {
    public static void main(String[] a) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", a[0], "isolation.level", a[1], "enable.auto.commit", "false",
            "auto.offset.reset", "earliest");
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            for (String topic : Arrays.copyOfRange(a, 2, a.length)) {
                List<PartitionInfo> partitions = new ArrayList<>(consumer.partitionsFor(topic));
                partitions.sort(Comparator.comparingInt(PartitionInfo::partition));
                for (PartitionInfo p : partitions) read(consumer, new TopicPartition(topic, p.partition()), out);
            }
        }
        out.flush();
    }

    static void read(KafkaConsumer<byte[], byte[]> consumer, TopicPartition tp, PrintStream out) {
        consumer.assign(List.of(tp));
        consumer.seekToBeginning(List.of(tp));
        long end = consumer.endOffsets(List.of(tp)).get(tp);
        long deadline = System.nanoTime() + Duration.ofMinutes(2).toNanos();
        while (consumer.position(tp) < end) {
            if (System.nanoTime() > deadline) throw new IllegalStateException(tp + " stands at " + consumer.position(tp) + " of " + end);
            for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
                StringBuilder headers = new StringBuilder();
                for (Header h : r.headers())
                    headers.append(headers.length() > 0 ? "," : "").append('[').append(Dump.str(h.key())).append(',').append(b64(h.value())).append(']');
                out.print("{\"topic\":" + Dump.str(tp.topic()) + ",\"partition\":" + tp.partition() + ",\"offset\":" + r.offset()
                    + ",\"timestamp\":" + r.timestamp() + ",\"key\":" + b64(r.key()) + ",\"value\":" + b64(r.value())
                    + ",\"headers\":[" + headers + "]}\n");
            }
        }
    }

    static String b64(byte[] v) { return Dump.b64(v == null ? null : ByteBuffer.wrap(v)); }
}
